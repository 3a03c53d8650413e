"""timestep_embedding: against diffusers' own function in every option, and against the formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_near, assert_traceable, kernel_runs, relative_error

from sdaccel.errors import ArgumentError
from sdaccel.kernels.timestep_embedding import (
    timestep_embedding,
    timestep_embedding_cost,
    timestep_embedding_reference,
)


def some_times() -> torch.Tensor:
    return torch.tensor([0.0, 0.5, 1.0, 37.25, 999.0])


def reference(timesteps: torch.Tensor, dim: int, **named: Any) -> torch.Tensor:
    options = {
        "flip_sin_to_cos": False,
        "downscale_freq_shift": 1.0,
        "scale": 1.0,
        "max_period": 10000.0,
        "dtype": torch.float32,
        **named,
    }
    return timestep_embedding_reference(timesteps, dim, *options.values())


@pytest.mark.parametrize("flip_sin_to_cos", [False, True])
@pytest.mark.parametrize("downscale_freq_shift", [0, 1, 0.5])
@pytest.mark.parametrize("dim", [1, 4, 7, 256, 321])
def test_it_is_diffusers_embedding(
    dim: int, downscale_freq_shift: float, flip_sin_to_cos: bool
) -> None:
    named = {"flip_sin_to_cos": flip_sin_to_cos, "downscale_freq_shift": downscale_freq_shift}
    stock = get_timestep_embedding(some_times(), dim, **named)
    with kernel_runs("timestep_embedding"):
        found = timestep_embedding(some_times(), dim, **named)
    assert found.dtype == torch.float32
    assert relative_error(found, stock) < 1e-5
    assert torch.equal(reference(some_times(), dim, **named), stock)


@pytest.mark.parametrize(("scale", "max_period"), [(1000, 10000), (0.25, 100), (-1, 2.5)])
def test_scale_and_period_are_those_given(scale: float, max_period: Any) -> None:
    times = some_times() / 1000
    stock = get_timestep_embedding(times, 64, scale=scale, max_period=max_period)
    found = timestep_embedding(times, 64, scale=scale, max_period=max_period)
    assert relative_error(found, stock) < 1e-5
    assert torch.equal(reference(times, 64, scale=scale, max_period=max_period), stock)


@pytest.mark.parametrize(
    "kind", [torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float64]
)
def test_timesteps_come_in_any_type(kind: torch.dtype) -> None:
    times = some_times().to(kind)
    stock = get_timestep_embedding(times, 64)
    assert relative_error(timestep_embedding(times, 64), stock) < 1e-5
    assert torch.equal(reference(times, 64), stock)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_rounded_once_to_what_is_asked_for(dtype: torch.dtype) -> None:
    found = timestep_embedding(some_times(), 64, dtype=dtype)
    assert found.dtype == dtype
    whole = timestep_embedding(some_times(), 64)
    assert_near(found, whole)
    assert_near(reference(some_times(), 64, dtype=dtype), whole, times=10)


@pytest.mark.parametrize("time", [1e3, 1e5, 1e7, 1e9])
def test_sines_of_large_angles_keep_their_digits(time: float) -> None:
    times = time * torch.linspace(0.5, 1, 7)
    index = torch.arange(32, dtype=torch.float32)
    frequencies = torch.exp((-math.log(10000) * index / 32).double()).float()
    angles = (times[:, None] * frequencies).double()
    expected = torch.cat([angles.sin(), angles.cos()], 1)
    found = timestep_embedding(times, 64, downscale_freq_shift=0)
    # what turns of fp64 lose of an angle, and fp32's rounding
    assert (found.double() - expected).abs().max() < 1e-7 + 2.3e-16 * time


def test_timesteps_may_lie_apart_or_be_one_for_all() -> None:
    apart = torch.stack([some_times(), -some_times()], 1)[:, 0]
    assert torch.equal(timestep_embedding(apart, 32), timestep_embedding(some_times(), 32))
    same = timestep_embedding(some_times()[3].expand(4), 32)
    assert torch.equal(same, timestep_embedding(some_times()[3:4], 32).expand(4, 32))


def test_no_timesteps_no_embeddings() -> None:
    assert timestep_embedding(torch.zeros(0), 32).shape == (0, 32)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=4),
    st.integers(4, 300),
    st.booleans(),
    st.sampled_from([0, 1]),
)
def test_any_timesteps(times: list[float], dim: int, flip: bool, shift: int) -> None:
    timesteps = torch.tensor(times)
    stock = get_timestep_embedding(timesteps, dim, flip, shift)
    found = timestep_embedding(timesteps, dim, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    assert (found - stock).abs().max() < 2e-4  # an angle's last digit is 6e-5


def test_it_compiles_into_one_graph() -> None:
    assert_traceable(timestep_embedding, some_times(), 32, dtype=torch.float16)


def test_the_cost_is_that_of_writing() -> None:
    assert timestep_embedding_cost(some_times(), 320, torch.bfloat16).bytes == 5 * 4 + 5 * 320 * 2


@pytest.mark.parametrize(
    ("arguments", "named", "words"),
    [
        ((some_times()[None], 32), {}, r"timesteps has shape \[1, 5\]"),
        ((some_times() > 1, 32), {}, "timesteps are whole or floating point, not torch.bool"),
        ((some_times(), 0), {}, "dim is above 0"),
        ((some_times(), 2), {}, "half of it isn't downscale_freq_shift"),
        ((some_times(), 32), {"max_period": 0}, "max_period is above 0"),
        ((some_times(), 32), {"dtype": torch.int8}, "dtype is one of"),
    ],
)
def test_bad_input_is_named(arguments: Any, named: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        timestep_embedding(*arguments, **named)
