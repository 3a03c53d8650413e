"""What attention_int8 reads: the kernels' 8-bit tensors and scales against plain torch's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from gpu_rounding import gpu_rounding
from kernel_checks import DTYPES, noise

from sdaccel.kernels.attention_quantization import (
    LOG2_E,
    QuantizedAttention,
    quantize_attention,
    quantize_attention_reference,
    widths,
)


@pytest.fixture(autouse=True, scope="module")
def _rounded() -> Iterator[None]:
    with gpu_rounding():
        yield


def assert_alike(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Whole numbers, equal but for a few that lie halfway between two."""
    distance = (found.float() - expected).abs()
    assert distance.max() <= 1
    assert (distance > 0).float().mean() < 2e-3


def assert_zero_but_for(x: torch.Tensor, rows: int, columns: int) -> None:
    """What pads x (..., rows, columns) is zero."""
    assert not x[..., rows:, :].float().any()
    assert not x[..., columns:].float().any()


def both(
    dim: int, dtype: torch.dtype, fp8: bool = False, smooth: bool = True, lengths: bool = False
) -> tuple[QuantizedAttention, QuantizedAttention]:
    """150 queries and 200 keys, quantized by the kernels and by the reference."""
    query = noise(2, 4, 150, dim, dtype=dtype)
    key = noise(2, 2, 200, dim, dtype=dtype, seed=1) + noise(2, 2, 1, dim, dtype=dtype, seed=2)
    value = noise(2, 200, 2, dim, dtype=dtype, seed=3).transpose(1, 2)
    key_lengths = noise(2).int() * 0 + 131 if lengths else None
    arguments = (query, key, value, key_lengths, 0.3, smooth, fp8)
    return quantize_attention(*arguments), quantize_attention_reference(*arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [40, 72, 128])
def test_each_query_has_a_scale_that_holds_the_softmax_s(dim: int, dtype: torch.dtype) -> None:
    found, expected = both(dim, dtype)
    assert found.query.dtype == torch.int8
    assert found.query.shape == (2, 4, 256, sum(widths(dim, 32)))
    assert_alike(found.query[:, :, :150, :dim], expected.query)
    assert_zero_but_for(found.query, 150, dim)
    largest = noise(2, 4, 150, dim, dtype=dtype).float().abs().amax(-1) * 0.3 * LOG2_E
    torch.testing.assert_close(found.query_scale[:, :, :150], largest / 127)
    torch.testing.assert_close(found.query_scale[:, :, :150, None], expected.query_scale)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("dim", [40, 72, 128])
def test_each_block_of_keys_has_a_scale_without_the_mean(dim: int, smooth: bool) -> None:
    found, expected = both(dim, torch.float16, smooth=smooth)
    assert found.key.dtype == torch.int8
    assert found.key.shape == (2, 2, 256, sum(widths(dim, 32)))
    assert_alike(found.key[:, :, :200, :dim], expected.key)
    assert_zero_but_for(found.key, 200, dim)
    assert found.key_scale.shape == (2, 2, 2)
    torch.testing.assert_close(found.key_scale, expected.key_scale[:, :, [0, 199], 0])
    average = (found.key[:, :, :128].float() * found.key_scale[:, :, :1, None]).mean(2)
    assert (average.abs().max() < 0.3) == smooth


def test_value_stays_as_it_is_in_16_bit_and_becomes_bf16_from_fp32() -> None:
    for dtype in DTYPES:
        found, expected = both(64, dtype)
        given = noise(2, 200, 2, 64, dtype=dtype, seed=3).transpose(1, 2)
        wanted = torch.bfloat16 if dtype == torch.float32 else dtype
        assert torch.equal(found.value, given.to(wanted))
        assert torch.equal(expected.value, given.to(wanted).float())
        assert found.value_scale is None


@pytest.mark.parametrize("dim", [40, 72, 128])
def test_value_in_fp8_has_a_scale_for_each_channel_and_lies_by_channels(dim: int) -> None:
    found, expected = both(dim, torch.float16, fp8=True)
    assert found.value.dtype == torch.float8_e4m3fn
    assert found.value.shape == (2, 2, sum(widths(dim, 16)), 256)
    assert found.value_scale is not None
    value = found.value.float() * found.value_scale[..., None]
    torch.testing.assert_close(value[:, :, :dim, :200].mT, expected.value, rtol=0.13, atol=1e-3)
    assert ((value[:, :, :dim, :200].mT - expected.value).abs() > 1e-4).float().mean() < 2e-3
    assert_zero_but_for(found.value, dim, 200)
    given = noise(2, 200, 2, dim, dtype=torch.float16, seed=3)
    torch.testing.assert_close(found.value_scale[..., :dim], given.float().abs().amax(1) / 448)


def test_keys_beyond_the_lengths_count_for_nothing() -> None:
    found, expected = both(64, torch.float16, fp8=True, lengths=True)
    assert_zero_but_for(found.key, 131, 64)
    assert_zero_but_for(found.value.mT, 131, 64)
    assert_alike(found.key[:, :, :200], expected.key)
    assert found.value_scale is not None
    given = noise(2, 200, 2, 64, dtype=torch.float16, seed=3)[:, :131]
    torch.testing.assert_close(found.value_scale, given.float().abs().amax(1) / 448)


def test_statistics_are_the_same_in_one_part_and_in_many() -> None:
    key = noise(1, 1, 9000, 16) + 3
    found = quantize_attention(key[:, :, :8], key, key, None, 1.0, True, False)
    centred = key - key.mean(2, keepdim=True)
    largest = torch.stack([block.abs().max() for block in centred.split(128, 2)])
    torch.testing.assert_close(found.key_scale.flatten(), largest / 127, rtol=1e-4, atol=0)
