"""gated_residual: the kernel and its reference against the sum in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_near, assert_traceable, kernel_runs, noise

from sdaccel.errors import ArgumentError
from sdaccel.kernels.gated_residual import (
    gated_residual,
    gated_residual_cost,
    gated_residual_reference,
)


def truth(residual: torch.Tensor, x: torch.Tensor, gate: Any = None) -> torch.Tensor:
    """Spelled out in float64; the gate broadcasts as it is."""
    return residual.double() + (x.double() if gate is None else gate.double() * x.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 40, 333, 1152])
def test_it_adds(channels: int, dtype: torch.dtype) -> None:
    residual, x = noise(2, 5, channels, dtype=dtype), noise(2, 5, channels, dtype=dtype, seed=1)
    with kernel_runs("gated_residual"):
        found = gated_residual(residual, x)
    assert found.dtype == dtype
    assert_near(found, truth(residual, x))
    assert_near(gated_residual_reference(residual, x, None), truth(residual, x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(48,), (2, 48), (2, 1, 48), (2, 7, 48), (7, 1), (1, 7, 48)], ids=str
)
def test_gates_of_every_kind(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    residual, x = noise(2, 7, 48, dtype=dtype), noise(2, 7, 48, dtype=dtype, seed=1)
    gate = noise(*shape, dtype=dtype, seed=2)
    if shape == (7, 1):
        gate = gate[None]
    with kernel_runs("gated_residual"):
        found = gated_residual(residual, x, gate)
    wide = gate[:, None] if shape == (2, 48) else gate
    assert_near(found, truth(residual, x, wide))
    assert_near(gated_residual_reference(residual, x, gate), truth(residual, x, wide))


def test_the_sum_is_rounded_once() -> None:
    one = torch.ones(1, 1, 64, dtype=torch.float16)
    x, gate = (
        one * (1 + 3 * 2**-10),
        one * (1 + 2**-10),
    )  # their product lies between fp16's numbers
    assert_near(gated_residual(-one, x, gate), truth(-one, x, gate))
    assert_near(gated_residual_reference(-one, x, gate), truth(-one, x, gate))


@pytest.mark.parametrize("how", ["transposed", "sliced", "channels apart", "repeated"])
def test_strides_of_every_kind(how: str) -> None:
    x = {
        "transposed": noise(5, 2, 24).transpose(0, 1),
        "sliced": noise(2, 9, 72)[:, 1:6, 24:48],
        "channels apart": noise(2, 24, 5).transpose(1, 2),
        "repeated": noise(2, 1, 24).expand(2, 5, 24),
    }[how]
    residual, gate = noise(2, 9, 24, seed=1)[:, 4:], noise(2, 144, seed=2)[:, 24:48]
    with kernel_runs("gated_residual", times=2):
        found, swapped = gated_residual(residual, x, gate), gated_residual(x, residual, gate)
    assert found.is_contiguous()
    assert_near(found, truth(residual, x, gate[:, None]))
    assert_near(swapped, truth(x, residual, gate[:, None]))


@pytest.mark.parametrize("gated", [False, True])
def test_the_reference_is_contiguous_too_beside_a_transposed_residual(gated: bool) -> None:
    residual, x = noise(2, 48, 7).mT, noise(2, 7, 48, seed=1)
    gate = noise(2, 48, seed=2) if gated else None
    found = gated_residual_reference(residual, x, gate)
    assert found.is_contiguous()
    assert_near(found, truth(residual, x, None if gate is None else gate[:, None]))


def test_videos_have_frames_and_their_own_gate_for_each() -> None:
    residual, x, gate = noise(2, 3, 5, 16), noise(2, 3, 5, 16, seed=1), noise(2, 3, 1, 16, seed=2)
    assert_near(gated_residual(residual, x, gate), truth(residual, x, gate))
    per_sample = noise(2, 16, seed=3)
    assert_near(
        gated_residual(residual, x, per_sample), truth(residual, x, per_sample[:, None, None])
    )


def test_a_fp32_stream_beside_16_bit_ones_stays_fp32() -> None:
    residual, x = noise(1, 3, 40), noise(1, 3, 40, dtype=torch.bfloat16, seed=1)
    gate = noise(1, 40, dtype=torch.bfloat16, seed=2)
    for found in (gated_residual(residual, x, gate), gated_residual_reference(residual, x, gate)):
        assert found.dtype == torch.float32
        assert_near(found, truth(residual, x, gate[:, None]))


def test_the_given_streams_stay_as_they_are() -> None:
    residual, x = noise(2, 3, 40), noise(2, 3, 40, seed=1)
    gated_residual(residual, x, noise(40))
    assert torch.equal(residual, noise(2, 3, 40))
    assert torch.equal(x, noise(2, 3, 40, seed=1))


def test_values_that_cancel_or_are_large_stay_right() -> None:
    x = torch.tensor([[6e4, -6e4, 3e4, torch.nan]], dtype=torch.float16)
    found = gated_residual(-x, x, torch.full((4,), 2.0, dtype=torch.float16))
    assert found[0, :3].tolist() == x[0, :3].tolist()
    assert found[0, 3].isnan()


@pytest.mark.parametrize("shape", [(0, 4, 32), (2, 0, 32), (2, 3, 0)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    empty = torch.zeros(shape)
    assert gated_residual(empty, empty, empty).shape == shape


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 700), st.booleans())
def test_any_shape(before: list[int], channels: int, gated: bool) -> None:
    residual, x = noise(*before, channels), noise(*before, channels, seed=1)
    gate = noise(channels, seed=2) if gated else None
    assert_near(gated_residual(residual, x, gate), truth(residual, x, gate))


def test_it_compiles_into_one_graph() -> None:
    assert_traceable(gated_residual, noise(2, 3, 32), noise(2, 3, 32, seed=1), noise(2, 32, seed=2))


def test_the_cost_is_that_of_three_streams() -> None:
    x, gate = noise(2, 3, 32, dtype=torch.bfloat16), noise(2, 32, dtype=torch.bfloat16)
    assert gated_residual_cost(x, x, gate).bytes == 3 * 2 * 3 * 32 * 2 + 2 * 32 * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((noise(2, 3, 8), noise(2, 4, 8)), r"residual has shape \[2, 3, 8\]; \[2, 4, 8\] was"),
        ((noise(2, 3, 8), noise(2, 3, 8), noise(2, 9)), "gate has shape"),
        ((noise(2, 3, 8).double(), noise(2, 3, 8)), "residual is fp16, bf16 or fp32"),
        ((noise(8), noise(8)), "hidden_states is"),
        ((noise(2, 8), torch.zeros(2, 8, device="meta")), "hidden_states is on meta"),
    ],
)
def test_bad_input_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        gated_residual(*arguments)
