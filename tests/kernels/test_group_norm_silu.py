"""group_norm_silu: the kernels against plain torch in fp64, through Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_near, assert_traceable, kernel_runs, noise

from sdaccel.errors import ArgumentError, SdaccelWarning
from sdaccel.kernels import group_norm_silu as file
from sdaccel.kernels.group_norm_silu import (
    group_norm_silu,
    group_norm_silu_cost,
    group_norm_silu_reference,
)
from sdaccel.kernels.operator import operators, recorded

LAYOUTS = ("contiguous", "channels-last")
PASSES = (1, 2)


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """x with its channels contiguous, whatever its dimensions; or as it is."""
    return x if layout == "contiguous" else x.movedim(1, -1).contiguous().movedim(-1, 1)


@contextmanager
def in_passes(passes: int, programs: int = 1056) -> Iterator[None]:
    """Within it groups of any size take so many passes, statistics spread over some programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "PROGRAMS", programs)
        if passes == 2:
            patch.setattr(file, "MOST_HELD", 0)
        yield


def truth(
    x: torch.Tensor,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    silu: bool = True,
    add: Any = None,
) -> torch.Tensor:
    """Spelled out in float64."""

    def by_channel(value: torch.Tensor) -> torch.Tensor:
        return value.double().reshape(-1, x.shape[1], *[1] * (x.dim() - 2))

    wide = x.double() if add is None else x.double() + by_channel(add)
    rows = wide.reshape(x.shape[0], groups, -1)
    variance, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
    y = ((rows - mean) / (variance + eps).sqrt()).reshape(x.shape)
    y = y if weight is None else y * by_channel(weight)
    y = y if bias is None else y + by_channel(bias)
    return y * torch.sigmoid(y) if silu else y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("per_group", [1, 10])
def test_it_is_the_norm_and_silu(
    per_group: int, passes: int, layout: str, dtype: torch.dtype
) -> None:
    channels = 4 * per_group
    x = laid_out(noise(2, channels, 5, 7, dtype=dtype), layout)
    weight, bias = noise(channels, dtype=dtype, seed=1), noise(channels, dtype=dtype, seed=2)
    add = noise(2, channels, dtype=dtype, seed=3)
    with in_passes(passes), kernel_runs("group_norm_silu"):
        found = group_norm_silu(x, 4, weight, bias, add=add)
    assert found.dtype == dtype
    assert found.stride() == x.stride()
    assert_near(found, truth(x, 4, weight, bias, add=add))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("absent", ["weight", "bias", "add", "silu", "everything"])
def test_each_part_may_be_absent(absent: str, passes: int, layout: str) -> None:
    x = laid_out(noise(2, 12, 3, 3), layout)
    parts: dict[str, Any] = {
        "weight": noise(12, seed=1),
        "bias": noise(12, seed=2),
        "add": noise(2, 12, seed=3),
        "silu": True,
    }
    without = {"weight": None, "bias": None, "add": None, "silu": False}
    named = without if absent == "everything" else {**parts, absent: without[absent]}
    with in_passes(passes):
        found = group_norm_silu(x, 3, eps=1e-3, **named)
    assert_near(found, truth(x, 3, eps=1e-3, **named))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("spatial", [(9,), (3, 5), (1, 1), (2, 3, 4)], ids=str)
def test_every_dimension_keeps_its_layout(
    spatial: tuple[int, ...], passes: int, layout: str
) -> None:
    x = laid_out(noise(2, 16, *spatial), layout)
    with in_passes(passes), kernel_runs("group_norm_silu"):
        found = group_norm_silu(x, 4)
    assert found.stride() == x.stride()
    assert_near(found, truth(x, 4))


@pytest.mark.parametrize("passes", PASSES)
def test_other_strides_become_contiguous(passes: int) -> None:
    for x in (noise(2, 8, 5, 6).transpose(2, 3), noise(2, 12, 5, 6)[:, 2:10, :, 1:]):
        with in_passes(passes):
            found = group_norm_silu(x, 2)
        assert found.is_contiguous()
        assert_near(found, truth(x, 2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_group_beyond_the_registers_is_read_twice(layout: str) -> None:
    small, large = noise(1, 8, 32, 32), laid_out(noise(1, 8, 71, 73), layout)
    with recorded() as launches:
        group_norm_silu(small, 1)
        assert [each.kernel for each in launches] == [file._group_kernel]
        group_norm_silu(large, 1)
        assert [each.kernel for each in launches[1:]] == [
            file.moments_kernel,
            file.coefficients_kernel,
            file.apply_kernel,
        ]
    add = noise(1, 8, seed=1)
    assert_near(group_norm_silu(large, 1, add=add), truth(large, 1, add=add))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("programs", [1, 6])
def test_a_program_may_take_several_tiles(programs: int, layout: str) -> None:
    x = laid_out(noise(1, 3, 95, 131) * 3 + 1, layout)
    x[:, :, 40:] += 5
    with in_passes(2, programs):
        found = group_norm_silu(x, 1)
    assert_near(found, truth(x, 1))


def test_groups_of_thousands_of_channels() -> None:
    x, weight, add = noise(1, 5000, 3), noise(5000, seed=1), noise(1, 5000, seed=2)
    with in_passes(2), kernel_runs("group_norm_silu"):
        found = group_norm_silu(x, 1, weight, weight, add=add)
    assert_near(found, truth(x, 1, weight, weight, add=add))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("passes", PASSES)
def test_a_large_mean_and_a_small_variance_keep_their_digits(passes: int, layout: str) -> None:
    x = laid_out(noise(1, 8, 60, 60) + 3e3, layout)
    with in_passes(passes, programs=2):
        found = group_norm_silu(x, 2, silu=False)
        raised = group_norm_silu(x - 3e3, 2, silu=False, add=torch.full((1, 8), 3e3))
    assert_near(found, truth(x, 2, silu=False), times=200)  # a mean of 3e3 is rounded by 1e-4
    assert_near(raised, truth(x, 2, silu=False), times=200)


@pytest.mark.parametrize("passes", PASSES)
def test_what_is_all_the_same_becomes_the_bias(passes: int) -> None:
    bias = noise(8)
    with in_passes(passes):
        found = group_norm_silu(torch.full((1, 8, 5, 5), 7.0), 2, bias=bias, silu=False)
    assert_near(found, bias[None, :, None, None].expand(1, 8, 5, 5), times=10)


@pytest.mark.parametrize("passes", PASSES)
def test_parameters_have_dtypes_and_strides_of_their_own(passes: int) -> None:
    x = noise(2, 8, 4, 4, dtype=torch.bfloat16)
    weight, bias = noise(8, 2, seed=1).unbind(1)
    add = noise(2, 16, seed=2).chunk(2, dim=1)[1]
    with in_passes(passes):
        found = group_norm_silu(x, 4, weight, bias.half(), add=add)
    assert found.dtype == torch.bfloat16
    assert_near(found, truth(x, 4, weight, bias.half(), add=add))


@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (2, 8, 0, 4), (2, 8, 0)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    assert group_norm_silu(x, 4, add=x.new_zeros(shape[:2])).shape == shape
    assert group_norm_silu_reference(x, 4, None, None, 1e-5, True, None).shape == shape


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 40),
    st.lists(st.integers(1, 11), min_size=1, max_size=3),
    st.sampled_from(LAYOUTS),
    st.sampled_from(PASSES),
)
def test_any_shape(
    samples: int, groups: int, per_group: int, spatial: list[int], layout: str, passes: int
) -> None:
    channels = groups * per_group
    x, add = laid_out(noise(samples, channels, *spatial), layout), noise(samples, channels, seed=1)
    bias = noise(channels, seed=2) + 1
    with in_passes(passes, programs=4):
        found = group_norm_silu(x, groups, bias=bias, eps=0.1, add=add)
    # with eps of 1e-5 a group of one element magnifies its rounding 316 times
    assert_near(found, truth(x, groups, bias=bias, eps=0.1, add=add), times=4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_compiles_into_one_graph(layout: str) -> None:
    x = laid_out(noise(2, 8, 3, 3), layout)
    assert_traceable(group_norm_silu, x, 4, noise(8, seed=1), add=noise(2, 8, seed=2))
    compiled = torch.compile(group_norm_silu, fullgraph=True, backend="aot_eager")
    assert compiled(x, 4).stride() == x.stride()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spatial", [(7,), (5, 7), (2, 3, 4)], ids=str)
def test_the_reference_is_the_same(
    spatial: tuple[int, ...], layout: str, dtype: torch.dtype
) -> None:
    x = laid_out(noise(2, 12, *spatial, dtype=dtype), layout)
    weight, bias, add = noise(12, seed=1), noise(12, seed=2), noise(2, 12, seed=3)
    for kind in (dtype, torch.float32):
        given = weight.to(kind), bias.to(kind), 1e-5, True, add.to(kind)
        found = group_norm_silu_reference(x, 3, *given)
        assert (found.dtype, found.stride()) == (dtype, x.stride())
        assert_near(found, truth(x, 3, *given), times=2)  # rounded after each of three steps


@pytest.mark.parametrize(
    ("limit", "words"),
    [("MOST_PIXELS", "more than 8 pixels"), ("MOST_PARTS", "more than 8 channels a group")],
)
def test_beyond_a_limit_the_reference_computes(
    limit: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, limit, 8)
    x, runs = noise(1, 18, 9), operators()["group_norm_silu"].runs
    before = runs["reference"]
    with in_passes(2), pytest.warns(SdaccelWarning, match=f"with plain torch: {words}"):
        found = group_norm_silu(x, 2)
    assert runs["reference"] == before + 1
    assert_near(found, truth(x, 2))


def test_the_cost_is_one_read_and_one_write() -> None:
    x, weight = noise(2, 8, 3, 3, dtype=torch.float16), noise(8)
    cost = group_norm_silu_cost(x, weight, add=noise(2, 8))
    assert (cost.bytes, cost.flops) == (2 * 288 + 32 + 64, 1440)


@pytest.mark.parametrize(
    ("arguments", "named", "words"),
    [
        ((noise(2, 8, 3), 3), {}, "groups divides 8 channels; 3 does not"),
        ((noise(2, 8, 3), 0), {}, "groups divides 8 channels; 0 does not"),
        ((noise(2, 8), 2), {}, r"hidden_states is \(N, C, ...\) with C above 0, not \[2, 8\]"),
        ((noise(2, 0, 3), 1), {}, "with C above 0"),
        ((noise(2, 8, 3).double(), 2), {}, "hidden_states is fp16, bf16 or fp32, not float64"),
        ((noise(2, 8, 3), 2, noise(9)), {}, r"weight has shape \[9\]; \[8\] was expected"),
        ((noise(2, 8, 3), 2, None, noise(8, 1)), {}, "bias has shape"),
        ((noise(2, 8, 3), 2), {"add": noise(1, 8)}, r"add has shape \[1, 8\]"),
        ((noise(2, 8, 3), 2, torch.zeros(8, device="meta")), {}, "weight is on meta"),
    ],
)
def test_bad_input_is_named(arguments: Any, named: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        group_norm_silu(*arguments, **named)
