"""Attention in C++ on a CPU: as near to the truth as torch's own, at odd sizes and any strides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from kernel_checks import no_compiler, noise, relative_error

from sdaccel.kernels import attention_native as module
from sdaccel.kernels.attention import attention
from sdaccel.kernels.attention_native import attention_native, unavailable
from sdaccel.kernels.operator import UnsupportedError, operators
from sdaccel.machine import processor

BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 3e-3}


def needs(dtype: torch.dtype) -> None:
    reason = unavailable(dtype)
    if reason is not None:
        pytest.skip(reason)


def truth(query: Any, key: Any, value: Any, scale: float) -> torch.Tensor:
    """Spelled out in float64."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.double().repeat_interleave(groups, dim=1) for each in (key, value))
    return torch.softmax(query.double() @ key.transpose(-1, -2) * scale, -1) @ value


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    """query, key and value of (B, H, Hk, S, T, D), stored (B, S, H, D) as projections do."""
    batch, heads, key_heads, queries, keys, channels = shape
    sizes = ((queries, heads), (keys, key_heads), (keys, key_heads))
    return [
        noise(batch, tokens, count, channels, dtype=dtype, seed=seed).transpose(1, 2)
        for seed, (tokens, count) in enumerate(sizes)
    ]


@pytest.fixture(params=[True, False], ids=["tiles", "no tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """AMX's tiles as this machine has them, and as if they were not allowed."""
    if not request.param:
        monkeypatch.setattr(module, "tiles_allowed", lambda: False)
    elif "amx_bf16" not in processor().features:
        pytest.skip("this CPU has no AMX")
    module._function.cache_clear()
    yield request.param
    module._function.cache_clear()


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, 3, 130, 200, 40),
        (1, 2, 2, 64, 64, 64),
        (1, 2, 1, 5, 77, 80),
        (2, 4, 2, 1, 65, 9),
        (1, 1, 1, 66, 1, 160),
        (1, 1, 1, 3, 2, 1),
        (1, 2, 2, 70, 129, 256),
        (1, 1, 1, 33, 95, 48),
    ],
    ids=str,
)
def test_it_is_the_truth_but_for_rounding(
    shape: tuple[int, ...], dtype: torch.dtype, tiles: bool
) -> None:
    needs(dtype)
    query, key, value = inputs(shape, dtype)
    found = attention_native(query, key, value, shape[-1] ** -0.5)
    expected = truth(query, key, value, shape[-1] ** -0.5)
    stock = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert found.dtype == dtype
    error = relative_error(found, expected)
    assert error <= BOUNDS[dtype]
    assert error <= 1.25 * relative_error(stock, expected) + 1e-6


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_result_lies_token_by_token_so_that_heads_join_without_a_copy(
    dtype: torch.dtype,
) -> None:
    needs(dtype)
    found = attention_native(*inputs((2, 3, 3, 7, 5, 8), dtype), 1.0)
    assert found.shape == (2, 3, 7, 8)
    assert found.transpose(1, 2).is_contiguous()


def test_strides_of_a_packed_projection() -> None:
    needs(torch.float32)
    packed = noise(2, 70, 3, 4, 24)
    query, key, value = (packed[:, :, place].transpose(1, 2) for place in range(3))
    found = attention_native(query, key, value, 0.2)
    assert relative_error(found, truth(query, key, value, 0.2)) <= 1e-6


@pytest.mark.parametrize("dtype", BOUNDS)
def test_large_scores_neither_overflow_nor_vanish(dtype: torch.dtype) -> None:
    needs(dtype)
    query, key, value = inputs((1, 2, 2, 65, 200, 32), dtype)
    query = query * 300
    found = attention_native(query, key, value, 1.0)
    assert relative_error(found, truth(query, key, value, 1.0)) <= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_what_is_not_finite_stays_so_in_its_own_row(dtype: torch.dtype) -> None:
    needs(dtype)
    query, key, value = inputs((1, 1, 1, 3, 5, 8), dtype)
    query[0, 0, 1, 0] = float("nan")
    found = attention_native(query, key, value, 1.0)
    assert found[0, 0, 1].isnan().all()
    assert found[0, 0, [0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", BOUNDS)
def test_scores_that_grow_from_block_to_block_are_weighed_alike(dtype: torch.dtype) -> None:
    needs(dtype)
    query, key, value = inputs((1, 1, 1, 40, 300, 16), dtype)
    query, key = query.abs(), key.abs() * torch.linspace(0.1, 9, 300).view(1, 1, -1, 1).to(dtype)
    for scale in (0.5, -0.5):
        found = attention_native(query, key, value, scale)
        assert relative_error(found, truth(query, key, value, scale)) <= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_more_threads_give_the_same_bits(dtype: torch.dtype) -> None:
    needs(dtype)
    query, key, value = inputs((2, 2, 2, 200, 90, 40), dtype)
    alone = attention_native(query, key, value, 0.1)
    torch.set_num_threads(2)
    try:
        assert torch.equal(attention_native(query, key, value, 0.1), alone)
    finally:
        torch.set_num_threads(1)


def test_nothing_to_attend_to_gives_zeros_and_no_query_nothing() -> None:
    needs(torch.float32)
    query, key, value = inputs((1, 2, 2, 3, 0, 8), torch.float32)
    assert torch.equal(attention_native(query, key, value, 1.0), torch.zeros(1, 2, 3, 8))
    query, key, value = inputs((0, 2, 2, 3, 4, 8), torch.float32)
    assert attention_native(query, key, value, 1.0).shape == (0, 2, 3, 8)


def test_other_dtypes_and_strides_are_unsupported() -> None:
    half = torch.ones(1, 1, 2, 4, dtype=torch.float16)
    with pytest.raises(UnsupportedError, match="float16 on a CPU"):
        attention_native(half, half, half, 1.0)
    needs(torch.float32)
    apart = torch.ones(1, 1, 2, 8)[..., ::2]
    with pytest.raises(UnsupportedError, match="side by side"):
        attention_native(apart, apart, apart, 1.0)


def test_a_failed_build_is_a_reason_not_a_crash() -> None:
    needs(torch.float32)
    with no_compiler(module) as reason:
        assert unavailable(torch.float32) == reason


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_the_op_takes_it_on_a_cpu_and_leaves_masks_to_torch(
    monkeypatch: pytest.MonkeyPatch, layout: Any
) -> None:
    needs(torch.float32)
    op = operators()["attention"]
    monkeypatch.setattr(op, "_interpreted", False)
    monkeypatch.setattr(op, "runs", Counter())
    query, key, value = inputs((1, 2, 2, 5, 7, 16), torch.float32)
    swapped = [each.transpose(1, 2) if layout == "bshd" else each for each in (query, key, value)]
    expected = truth(query, key, value, 0.25)
    for mask in (None, torch.ones(5, 7, dtype=torch.bool)):
        found = attention(*swapped, mask, layout=layout)
        found = found.transpose(1, 2) if layout == "bshd" else found
        assert relative_error(found, expected) <= 1e-6
    assert op.runs == {"native": 1, "reference": 1}
