"""norm_modulate: the kernel against plain torch in fp32, through Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import (
    DTYPES,
    assert_near,
    assert_traceable,
    assert_within_a_step,
    kernel_runs,
    noise,
)

from sdaccel.errors import ArgumentError
from sdaccel.kernels.norm_modulate import (
    norm_modulate,
    norm_modulate_quantized,
    norm_modulate_reference,
)

LAYER = torch.nn.functional.layer_norm


def truth(
    x: torch.Tensor, scale: Any = None, shift: Any = None, kind: str = "layer", eps: float = 1e-6
) -> torch.Tensor:
    """Spelled out in float64; scale and shift broadcast as they are."""
    x = x.double()
    if kind == "rms":
        y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    else:
        y = LAYER(x, x.shape[-1:], eps=eps)
    y = y if scale is None else y * (1 + scale.double())
    return y if shift is None else y + shift.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("channels", [1, 40, 64, 333, 3072])
def test_it_is_the_norm(kind: Any, channels: int, dtype: torch.dtype) -> None:
    x = noise(2, 5, channels, dtype=dtype)
    with kernel_runs("norm_modulate"):
        found = norm_modulate(x, kind=kind)
    assert found.dtype == dtype
    assert_near(found, truth(x, kind=kind))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(48,), (2, 48), (2, 1, 48), (2, 7, 48), (1, 7, 48)], ids=lambda shape: str(shape)
)
def test_scale_and_shift_of_every_kind(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, scale, shift = noise(2, 7, 48), noise(*shape, seed=1), noise(*shape, seed=2)
    x, scale, shift = x.to(dtype), scale.to(dtype), shift.to(dtype)
    with kernel_runs("norm_modulate"):
        found = norm_modulate(x, scale, shift)
    wide = [each.reshape(2, 1, 48) if each.dim() == 2 else each for each in (scale, shift)]
    assert_near(found, truth(x, *wide))


def test_weight_and_bias_come_before_scale_and_shift() -> None:
    x, weight, bias = noise(2, 3, 40), noise(40, seed=1), noise(40, seed=2)
    scale, shift = noise(2, 40, seed=3), noise(2, 40, seed=4)
    found = norm_modulate(x, scale, shift, weight=weight, bias=bias, eps=1e-5)
    plain = LAYER(x, (40,), weight, bias, 1e-5)
    assert_near(found, plain * (1 + scale[:, None]) + shift[:, None])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_the_reference_computes_the_same(kind: Any, dtype: torch.dtype) -> None:
    x, weight, bias = noise(2, 3, 40), noise(40, seed=1), noise(40, seed=2)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    scale, shift = noise(2, 40, dtype=dtype, seed=3), noise(2, 1, 40, dtype=dtype, seed=4)
    found = norm_modulate_reference(x, scale, shift, weight, bias, kind, 1e-6, 1.0)
    wide = truth(x, kind=kind) * weight.double() + bias.double()
    assert found.dtype == dtype
    assert_near(found, wide * (1 + scale[:, None].double()) + shift.double(), times=2)


def test_one_of_scale_and_shift_may_be_absent() -> None:
    x, value = noise(2, 3, 40), noise(2, 40, seed=1)
    assert_near(norm_modulate(x, value), truth(x, value[:, None]))
    assert_near(norm_modulate(x, None, value), truth(x, None, value[:, None]))


def test_a_scale_may_hold_its_one_already() -> None:
    x, scale = noise(2, 3, 40), noise(2, 40, seed=1)
    assert_near(norm_modulate(x, scale, scale_offset=0.0), truth(x, scale[:, None] - 1.0))


def test_videos_have_frames_and_their_own_modulation_for_each() -> None:
    x, scale = noise(2, 3, 5, 16), noise(2, 3, 1, 16, seed=1)
    assert_near(norm_modulate(x, scale), truth(x, scale))


@pytest.mark.parametrize("how", ["transposed", "sliced", "channels apart"])
def test_strides_of_every_kind(how: str) -> None:
    x = {
        "transposed": noise(5, 2, 24).transpose(0, 1),
        "sliced": noise(2, 9, 72)[:, 1:6, 24:48],
        "channels apart": noise(2, 24, 5).transpose(1, 2),
    }[how]
    with kernel_runs("norm_modulate"):
        found = norm_modulate(x)
    assert found.is_contiguous()
    assert_near(found, truth(x))


def test_large_values_with_a_large_mean_keep_their_digits() -> None:
    x = noise(1, 4, 512) + 3e3
    assert_near(norm_modulate(x), truth(x), times=200)  # x itself has lost 11 bits
    half = (noise(1, 4, 512) * 1e4).to(torch.float16)
    assert_near(norm_modulate(half, kind="rms"), truth(half, kind="rms"))


@pytest.mark.parametrize("shape", [(0, 4, 32), (2, 0, 32)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    assert norm_modulate(torch.zeros(shape)).shape == shape


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 200), st.sampled_from(["layer", "rms"])
)
def test_any_shape(batches: int, tokens: int, channels: int, kind: Any) -> None:
    x, scale = noise(batches, tokens, channels), noise(batches, channels, seed=1)
    assert_near(norm_modulate(x, scale, kind=kind), truth(x, scale[:, None], kind=kind), times=2)


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_quantized_rows_are_within_a_step(dtype: Any) -> None:
    x, scale = noise(2, 5, 96, dtype=torch.bfloat16), noise(2, 96, seed=1)
    with kernel_runs("norm_modulate_quantized"):
        found, row_scale = norm_modulate_quantized(x, scale, dtype=dtype)
    assert found.dtype == {"fp8": torch.float8_e4m3fn, "int8": torch.int8}[dtype]
    assert row_scale.shape == (2, 5)
    assert_within_a_step(found, row_scale, truth(x, scale[:, None]))


def test_quantized_zeros_stay_zeros() -> None:
    found, row_scale = norm_modulate_quantized(torch.zeros(1, 2, 32), kind="rms")
    assert not found.float().any()
    assert torch.isfinite(row_scale).all()


def test_it_compiles_into_one_graph() -> None:
    assert_traceable(norm_modulate, noise(2, 3, 32), noise(2, 32, seed=1))


@pytest.mark.parametrize(
    ("arguments", "named", "words"),
    [
        ((noise(2, 3, 8), noise(3, 8)), {}, r"scale has shape \[3, 8\]; \[2, 8\] was expected"),
        ((noise(2, 3, 8), noise(2, 5, 8)), {}, "scale has shape"),
        ((noise(2, 3, 8).double(),), {}, "hidden_states is fp16, bf16 or fp32, not float64"),
        ((noise(2, 3, 8),), {"weight": noise(9)}, "weight has shape"),
        ((noise(2, 3, 8),), {"kind": "group"}, "kind is one of 'layer', 'rms', not 'group'"),
        ((noise(8),), {}, "hidden_states is"),
        ((noise(2, 3, 8),), {"weight": torch.zeros(8, device="meta")}, "weight is on meta"),
    ],
)
def test_bad_input_is_named(arguments: Any, named: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        norm_modulate(*arguments, **named)


def test_gradients_are_refused() -> None:
    x = noise(1, 2, 8).requires_grad_()
    with pytest.raises(RuntimeError, match="norm_modulate has no gradient"):
        norm_modulate(x)
    with torch.no_grad():
        norm_modulate(x)
