"""attention_sparse: chosen blocks against the formula with the mask written out, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_near, assert_traceable, kernel_runs, noise

from sdaccel.errors import ArgumentError
from sdaccel.kernels import operator
from sdaccel.kernels.attention import attention
from sdaccel.kernels.attention_sparse import (
    attention_sparse,
    attention_sparse_cost,
    attention_sparse_reference,
)

SIZE = (64, 32)


def inputs(
    batches: int, heads: int, queries: int, keys: int, dim: int = 16, kept: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    kept = kept or heads
    return (
        noise(batches, heads, queries, dim),
        noise(batches, kept, keys, dim, seed=1),
        noise(batches, kept, keys, dim, seed=2),
    )


def chosen(*shape: int, share: float = 0.5, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """A random block mask for (B, H, S, T)."""
    batches, heads, queries, keys = shape
    uniform = torch.rand(
        batches, heads, math.ceil(queries / size[0]), math.ceil(keys / size[1]),
        generator=torch.Generator().manual_seed(4),
    )  # fmt: skip
    return uniform < share


def truth(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block_mask: torch.Tensor,
    size: tuple[int, int] = SIZE,
) -> torch.Tensor:
    group = query.shape[1] // key.shape[1]
    key, value = (each.double().repeat_interleave(group, 1) for each in (key, value))
    row = torch.arange(query.shape[2]) // size[0]
    column = torch.arange(key.shape[2]) // size[1]
    mask = block_mask[:, :, row][..., column]
    logits = query.double() @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return logits.masked_fill(~mask, float("-inf")).softmax(-1).nan_to_num(0.0) @ value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [40, 64, 128])
def test_only_chosen_blocks_take_part(dim: int, dtype: torch.dtype) -> None:
    query, key, value = (each.to(dtype) for each in inputs(1, 2, 130, 141, dim))
    block_mask = chosen(1, 2, 130, 141)
    with kernel_runs("attention_sparse"):
        found = attention_sparse(query, key, value, block_mask, block_size=SIZE)
    # in 16 bit the weights are rounded as well as the result
    assert_near(found, truth(query, key, value, block_mask), times=2)


def test_keys_that_are_left_out_are_not_read() -> None:
    query, key, value = inputs(1, 1, 64, 160)
    block_mask = torch.tensor([True, False, True, False, True])[None, None, None]
    expected = truth(query, key, value, block_mask)
    for each in (key, value):
        each.unflatten(2, (5, 32))[:, :, 1::2] = float("nan")
    assert_near(attention_sparse(query, key, value, block_mask, block_size=SIZE), expected)


def test_all_blocks_are_attention() -> None:
    qkv = inputs(2, 2, 70, 70)
    found = attention_sparse(*qkv, chosen(2, 2, 70, 70, share=2.0), block_size=SIZE)
    torch.testing.assert_close(found, attention(*qkv))


def test_no_blocks_are_zeros() -> None:
    qkv = inputs(1, 2, 130, 70)
    block_mask = chosen(1, 2, 130, 70, share=2.0)
    block_mask[:, 1, 1] = False
    found = attention_sparse(*qkv, block_mask, block_size=SIZE)
    assert torch.equal(found[:, 1, 64:128], torch.zeros(1, 64, 16))
    assert_near(found, truth(*qkv, block_mask))


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_batches_and_heads_may_share_a_mask(shape: tuple[int, int]) -> None:
    qkv = inputs(2, 4, 70, 130, kept=2)
    block_mask = chosen(*shape, 70, 130)
    assert_near(attention_sparse(*qkv, block_mask, block_size=SIZE), truth(*qkv, block_mask))


@pytest.mark.parametrize("size", [(16, 16), (48, 80), (128, 64), (64, 128), (384, 384)])
def test_blocks_of_any_multiple_of_16(size: tuple[int, int]) -> None:
    qkv = inputs(1, 1, 200, 210)
    block_mask = chosen(1, 1, 200, 210, share=0.7, size=size)
    found = attention_sparse(*qkv, block_mask, block_size=size)
    assert_near(found, truth(*qkv, block_mask, size))


@pytest.mark.parametrize("keys", [96, 97, 127, 128, 129, 160])
def test_the_last_block_may_be_short(keys: int) -> None:
    qkv = inputs(1, 1, 17, keys)
    for share in (0.5, 2.0):
        block_mask = chosen(1, 1, 17, keys, share=share, size=(64, 64))
        found = attention_sparse(*qkv, block_mask, block_size=(64, 64))
        assert_near(found, truth(*qkv, block_mask, (64, 64)))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(1, 2), st.integers(1, 200), st.integers(1, 200), st.floats(0, 1))
def test_any_shape(heads: int, queries: int, keys: int, share: float) -> None:
    qkv = inputs(1, heads, queries, keys)
    block_mask = chosen(1, heads, queries, keys, share=share)
    assert_near(attention_sparse(*qkv, block_mask, block_size=SIZE), truth(*qkv, block_mask))


@pytest.mark.parametrize("chip", ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"])
def test_every_chip_s_cut(monkeypatch: pytest.MonkeyPatch, chip: str) -> None:
    monkeypatch.setattr(operator, "chip_of", lambda _: chip)
    query, key, value = (each.half() for each in inputs(1, 2, 140, 300, 64))
    block_mask = chosen(1, 2, 140, 300, size=(128, 128))
    found = attention_sparse(query, key, value, block_mask, block_size=(128, 128))
    assert_near(found, truth(query, key, value, block_mask, (128, 128)), times=2)


def test_both_layouts_and_the_reference() -> None:
    query, key, value = inputs(2, 2, 70, 100)
    block_mask = chosen(2, 2, 70, 100)
    block_mask[0, 0, 0] = False
    found = attention_sparse(query, key, value, block_mask, block_size=SIZE)
    assert found.transpose(1, 2).is_contiguous()
    expected = attention_sparse_reference(query, key, value, block_mask, [*SIZE], None, "bhsd")
    torch.testing.assert_close(found, expected)
    swapped = [each.transpose(1, 2) for each in (query, key, value)]
    found = attention_sparse(*swapped, block_mask, block_size=SIZE, layout="bshd")
    assert found.is_contiguous()
    torch.testing.assert_close(found.transpose(1, 2), expected)


def test_it_compiles_into_one_graph() -> None:
    qkv = inputs(1, 2, 70, 40)
    assert_traceable(attention_sparse, *qkv, chosen(1, 2, 70, 40), block_size=SIZE)


def test_the_cost() -> None:
    query, key, value = inputs(1, 2, 64, 64)
    block_mask = chosen(1, 2, 64, 64)
    cost = attention_sparse_cost(query, key, value, block_mask, chosen=0.25)
    assert cost.flops == 2 * 64 * 64 * 16
    assert cost.bytes == 4 * 4 * query.numel() + block_mask.numel()


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"block_mask": torch.ones(1, 2, 2, 3)}, "block_mask is boolean"),
        ({"block_mask": torch.ones(1, 2, 2, 2, dtype=torch.bool)}, "block_mask has shape"),
        ({"block_mask": torch.ones(2, 3, dtype=torch.bool)}, "block_mask has shape"),
        ({"block_mask": torch.ones(1, 2, 2, 3, dtype=torch.bool, device="meta")}, "on meta"),
        ({"block_size": (64, 24)}, "block_size is two multiples of 16"),
        ({"block_size": (64, 0)}, "block_size is two multiples of 16"),
        ({"key": noise(1, 2, 70, 8)}, "key has shape"),
        ({"layout": "sbhd"}, "layout is one of"),
    ],
)
def test_bad_input_is_named(named: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = dict(
        zip(("query", "key", "value"), inputs(1, 2, 70, 70), strict=True)
    )
    arguments |= {"block_mask": torch.ones(1, 2, 2, 3, dtype=torch.bool), "block_size": SIZE}
    with pytest.raises(ArgumentError, match=words):
        attention_sparse(**{**arguments, **named})
