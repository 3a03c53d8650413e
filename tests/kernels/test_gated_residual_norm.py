"""gated_residual_norm: both of its streams against plain torch in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import (
    DTYPES,
    assert_near,
    assert_traceable,
    assert_within_a_step,
    kernel_runs,
    noise,
)

from sdaccel.errors import ArgumentError
from sdaccel.kernels.gated_residual_norm import gated_residual_norm, gated_residual_norm_quantized


def truth(
    residual: torch.Tensor, x: torch.Tensor, gate: Any, scale: Any, shift: Any, kind: str = "layer"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spelled out in float64, modulations (B, 1 or S, C)."""
    stream = residual.double() + (x.double() if gate is None else gate.double() * x.double())
    if kind == "rms":
        y = stream / (stream.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    else:
        y = torch.nn.functional.layer_norm(stream, stream.shape[-1:], eps=1e-6)
    y = y if scale is None else y * (1 + scale.double())
    return stream, y if shift is None else y + shift.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("tokens", [1, 7])
def test_the_stream_and_its_norm(tokens: int, kind: Any, dtype: torch.dtype) -> None:
    residual, x = noise(2, 7, 72, dtype=dtype), noise(2, 7, 72, dtype=dtype, seed=1)
    gate, scale, shift = (noise(2, tokens, 72, dtype=dtype, seed=seed) for seed in (2, 3, 4))
    with kernel_runs("gated_residual_norm"):
        stream, y = gated_residual_norm(residual, x, gate, scale, shift, kind=kind)
    true_stream, true_y = truth(residual, x, gate, scale, shift, kind)
    assert stream.dtype == y.dtype == dtype
    assert_near(stream, true_stream)
    assert_near(y, true_y)


def test_without_a_gate_it_adds() -> None:
    residual, x = noise(2, 3, 40), noise(2, 3, 40, seed=1)
    stream, y = gated_residual_norm(residual, x)
    for found, expected in zip((stream, y), truth(residual, x, None, None, None), strict=True):
        assert_near(found, expected)


def test_a_scale_that_holds_its_offset_already() -> None:
    residual, x = noise(2, 3, 40), noise(2, 3, 40, seed=1)
    scale, shift = noise(2, 40, seed=2), noise(2, 40, seed=3)
    expected = gated_residual_norm(residual, x, None, scale, shift)
    for each, other in zip(
        gated_residual_norm(residual, x, None, 1 + scale, shift, scale_offset=0.0),
        expected,
        strict=True,
    ):
        assert_near(each, other)


def test_the_given_streams_stay_as_they_are() -> None:
    residual, x = noise(2, 3, 40), noise(2, 3, 40, seed=1)
    gated_residual_norm(residual, x)
    assert torch.equal(residual, noise(2, 3, 40))
    assert torch.equal(x, noise(2, 3, 40, seed=1))


def test_streams_with_strides_of_their_own() -> None:
    joined = noise(2, 9, 40)
    residual, x = joined[:, 4:], noise(5, 2, 40, seed=1).transpose(0, 1)
    gate = noise(2, 240, seed=2)[:, 40:80]
    with kernel_runs("gated_residual_norm"):
        found = gated_residual_norm(residual, x, gate)
    for each, expected in zip(found, truth(residual, x, gate[:, None], None, None), strict=True):
        assert_near(each, expected)


def test_a_fp32_stream_beside_16_bit_ones_stays_fp32() -> None:
    residual, x = noise(1, 3, 40), noise(1, 3, 40, dtype=torch.bfloat16, seed=1)
    stream, y = gated_residual_norm(residual, x)
    assert (stream.dtype, y.dtype) == (torch.float32, torch.bfloat16)
    assert_near(stream, truth(residual, x, None, None, None)[0])


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_the_norm_may_leave_in_8_bit(dtype: Any) -> None:
    residual, x, gate = noise(2, 3, 96), noise(2, 3, 96, seed=1), noise(2, 96, seed=2)
    with kernel_runs("gated_residual_norm_quantized"):
        stream, y, row_scale = gated_residual_norm_quantized(residual, x, gate, dtype=dtype)
    true_stream, true_y = truth(residual, x, gate[:, None], None, None)
    assert_near(stream, true_stream)
    assert_within_a_step(y, row_scale, true_y)


def test_it_compiles_into_one_graph() -> None:
    assert_traceable(gated_residual_norm, noise(2, 3, 32), noise(2, 3, 32, seed=1))


def test_streams_of_different_shapes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="residual has shape"):
        gated_residual_norm(noise(2, 3, 8), noise(2, 4, 8))
    with pytest.raises(ArgumentError, match="gate has shape"):
        gated_residual_norm(noise(2, 3, 8), noise(2, 3, 8), noise(2, 9))
