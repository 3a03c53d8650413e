"""attention: every head dim, length, layout, mask and dtype against the formula in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import (
    DTYPES,
    assert_near,
    assert_traceable,
    kernel_runs,
    noise,
    relative_error,
)

from sdaccel.errors import ArgumentError, SdaccelWarning
from sdaccel.kernels import operator
from sdaccel.kernels.attention import attention, attention_cost, attention_reference
from sdaccel.kernels.attention_cuts import parts_of
from sdaccel.kernels.attention_launch import _aligned
from sdaccel.kernels.operator import recorded, takes_boxes

DIMS = (8, 40, 64, 72, 80, 96, 128, 160, 256)
# The weights are rounded to 16 bit as well as the result.
TWICE = 2.0


def truth(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """The formula for (B, H, S, D) in float64; queries without keys get zeros."""
    group = query.shape[1] // key.shape[1]
    key, value = (each.double().repeat_interleave(group, 1) for each in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    logits = query.double() @ key.transpose(-1, -2) * scale
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        logits = logits + mask.double()
    return logits.softmax(-1).nan_to_num(0.0) @ value


def inputs(
    batches: int,
    heads: int,
    queries: int,
    keys: int,
    dim: int,
    dtype: torch.dtype = torch.float32,
    kept: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value, (B, H, S, D)."""
    kept = kept or heads
    return (
        noise(batches, heads, queries, dim, dtype=dtype),
        noise(batches, kept, keys, dim, dtype=dtype, seed=1),
        noise(batches, kept, keys, dim, dtype=dtype, seed=2),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", DIMS)
def test_every_head_dim(dim: int, dtype: torch.dtype) -> None:
    qkv = inputs(1, 2, 37, 77, dim, dtype)
    with kernel_runs("attention"):
        found = attention(*qkv)
    assert found.dtype == dtype
    assert_near(found, truth(*qkv), times=TWICE)


def test_a_head_is_cut_into_powers_of_two_that_waste_little() -> None:
    for dim in range(1, 257):
        main, rest = parts_of(dim)
        for part in (main, rest):
            assert part & (part - 1) == 0
        assert main >= 16
        assert rest < main
        assert dim <= main + rest <= max(dim + 15, dim * 4 / 3)
    assert [sum(parts_of(dim)) for dim in DIMS] == [16, 48, 64, 80, 80, 96, 128, 160, 256]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 130), (130, 1), (65, 63), (128, 128)])
def test_any_length(queries: int, keys: int) -> None:
    qkv = inputs(2, 1, queries, keys, 16)
    assert_near(attention(*qkv), truth(*qkv))


@pytest.mark.parametrize("batches", [0, 2])
@pytest.mark.parametrize(("queries", "keys"), [(3, 0), (0, 3)])
def test_nothing_to_attend_to_gives_zeros(batches: int, queries: int, keys: int) -> None:
    found = attention(*inputs(batches, 2, queries, keys, 16))
    assert torch.equal(found, torch.zeros(batches, 2, queries, 16))
    assert attention(*inputs(0, 2, 3, 3, 16)).shape == (0, 2, 3, 16)


def test_both_layouts_store_tokens_before_heads() -> None:
    query, key, value = inputs(2, 3, 5, 7, 40)
    first = attention(query, key, value)
    swapped = [each.transpose(1, 2) for each in (query, key, value)]
    second = attention(*swapped, layout="bshd")
    assert torch.equal(first, second.transpose(1, 2))
    assert second.is_contiguous()
    assert first.transpose(1, 2).is_contiguous()
    assert first.transpose(1, 2).flatten(2).data_ptr() == first.data_ptr()


@pytest.mark.parametrize("dim", [40, 64])
def test_views_of_a_packed_tensor_are_read_where_they_lie(dim: int) -> None:
    packed = noise(2, 9, 3, 2, dim)
    query, key, value = packed[:, 1:].unbind(2)
    heads_first = [each.transpose(1, 2) for each in (query, key, value)]
    assert_near(attention(*heads_first), truth(*heads_first))
    assert_near(attention(query, key, value, layout="bshd").transpose(1, 2), truth(*heads_first))


def test_odd_strides_and_a_shared_key() -> None:
    query = noise(2, 2, 5, 19)[..., 1:18]
    key, value = (noise(1, 1, 6, 17, seed=seed).expand(2, 2, -1, -1) for seed in (1, 2))
    assert_near(attention(query, key, value), truth(query, key, value))


def test_only_rows_that_begin_at_odd_places_are_copied() -> None:
    packed = noise(2, 9, 3, 2, 24, dtype=torch.float16)
    for view in (packed[:, :, 1], packed[:, :, 0].transpose(1, 2), packed[:1, :, 0, :, 8:16]):
        assert _aligned(view) is view
    shared = noise(1, 2, 5, 16).expand(3, -1, -1, -1)
    odd_ones = noise(2, 2, 5, 19)[..., :16], noise(2, 2, 5, 20)[..., 1:17], noise(1, 1, 2, 17)
    for odd in (*odd_ones, shared):
        copied = _aligned(odd)
        assert torch.equal(copied, odd)
        assert takes_boxes(copied)


def test_a_key_head_that_is_expanded_over_all_heads_is_read_as_one() -> None:
    query = noise(2, 3, 5, 16)
    key, value = (noise(2, 1, 6, 16, seed=seed).expand(-1, 3, -1, -1) for seed in (1, 2))
    with recorded() as launches:
        attention(query, key, value)
    assert launches[0].arguments["group"] == 3
    assert launches[0].arguments["key"].data_ptr() == key.data_ptr()
    assert_near(attention(query, key, value), truth(query, key, value))


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_key_heads_serve_neighbouring_query_heads(kept: int) -> None:
    qkv = inputs(2, 6, 5, 33, 16, kept=kept)
    assert_near(attention(*qkv), truth(*qkv))


MASKS = [(2, 3, 20, 70), (1, 3, 20, 70), (2, 1, 1, 70), (1, 1, 20, 1), (20, 70), (70,)]


@pytest.mark.parametrize("shape", MASKS)
def test_a_boolean_mask_says_who_takes_part(shape: tuple[int, ...]) -> None:
    qkv = inputs(2, 3, 20, 70, 16)
    mask = noise(*shape, seed=3) > -0.5
    assert_near(attention(*qkv, mask), truth(*qkv, mask))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", MASKS)
def test_an_additive_mask_is_added_to_the_logits(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    qkv = inputs(2, 3, 20, 70, 16, dtype)
    mask = noise(*shape, seed=3, dtype=dtype)
    assert_near(attention(*qkv, mask), truth(*qkv, mask), times=TWICE)


def test_a_mask_may_be_transposed_or_in_another_dtype() -> None:
    qkv = inputs(1, 2, 20, 70, 16, torch.float16)
    mask = noise(1, 1, 70, 20, seed=3).transpose(2, 3)
    assert_near(attention(*qkv, mask), truth(*qkv, mask), times=TWICE)


def test_infinite_masks_leave_out_and_whole_rows_of_them_give_zeros() -> None:
    query, key, value = inputs(1, 2, 20, 140, 16)
    mask = torch.zeros(20, 140)
    mask[:, 100:] = float("-inf")
    mask[3:, :70] = float("-inf")
    mask[7] = float("-inf")
    for each in (mask, mask == 0):
        found = attention(query, key, value, each)
        assert torch.equal(found[:, :, 7], torch.zeros(1, 2, 16))
        assert_near(found, truth(query, key, value, mask))


# What overflows becomes the -inf that is meant.
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_the_least_number_is_no_infinity() -> None:
    query, key, value = inputs(1, 1, 3, 70, 16)
    mask = torch.full((3, 70), torch.finfo(torch.float32).min)
    mask[0, 69] = 0
    found = attention(query, key, value, mask)
    assert_near(found[:, :, 0], value[:, :, 69])
    assert_near(found[:, :, 1:], value.double().mean(2, keepdim=True).expand(-1, -1, 2, -1))


def test_key_lengths_leave_out_padding() -> None:
    query, key, value = inputs(5, 2, 9, 150, 16)
    key[:, :, 149] = float("nan")
    lengths = torch.tensor([1, 64, 149, 0, -3], dtype=torch.int32)
    found = attention(query, key, value, key_lengths=lengths)
    mask = torch.arange(150) < lengths[:, None]
    expected = truth(query, key.nan_to_num(0), value, mask[:, None, None])
    assert_near(found, expected)
    assert torch.equal(found[3:], torch.zeros_like(found[3:]))


def test_key_lengths_and_a_mask_together() -> None:
    qkv = inputs(2, 2, 9, 70, 16)
    lengths = torch.tensor([3, 66], dtype=torch.int32)
    mask = noise(2, 1, 9, 70, seed=3)
    within = torch.arange(70) < lengths[:, None, None, None]
    expected = truth(*qkv, mask.masked_fill(~within, float("-inf")))
    assert_near(attention(*qkv, mask, key_lengths=lengths), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_activations(dtype: torch.dtype) -> None:
    query, key, value = inputs(1, 2, 20, 70, 64, dtype)
    query, key, value = query * 16, key * 16, value * 1000
    found = attention(query, key, value)
    # logits up to 2,000 have fp32 steps of 1e-4, which the weights show as relative errors
    times = 50 if dtype == torch.float32 else TWICE
    assert_near(found, truth(query, key, value), times)


def test_scale() -> None:
    qkv = inputs(1, 2, 20, 70, 16)
    assert_near(attention(*qkv, scale=0.7), truth(*qkv, scale=0.7))


def test_what_is_beyond_the_kernel_takes_plain_torch() -> None:
    qkv = inputs(1, 1, 3, 5, 512)
    with pytest.warns(SdaccelWarning, match="more than 256 channels"):
        found = attention(*qkv)
    assert_near(found, truth(*qkv))
    qkv = inputs(1, 1, 3, 5, 16)
    with pytest.warns(SdaccelWarning, match="not above zero"):
        found = attention(*qkv, scale=-0.5)
    assert_near(found, truth(*qkv, scale=-0.5))


def reference(*qkv: Any, lengths: torch.Tensor | None = None, layout: str = "bhsd") -> Any:
    mask = qkv[3] if len(qkv) > 3 else None
    return attention_reference(*qkv[:3], mask, lengths, None, layout)


def test_the_reference_does_the_same() -> None:
    query, key, value = inputs(2, 2, 9, 70, 40, kept=1)
    mask = noise(9, 70, seed=3)
    mask[4] = float("-inf")
    lengths = torch.tensor([3, 66], dtype=torch.int32)
    for qkv in ((query, key, value), (query, key, value, mask), (query, key, value, mask == 0)):
        for limit in (None, lengths):
            found = reference(*qkv, lengths=limit)
            torch.testing.assert_close(found, attention(*qkv, key_lengths=limit))
            assert found.transpose(1, 2).is_contiguous()
    swapped = [each.transpose(1, 2) for each in (query, key, value)]
    found = reference(*swapped, layout="bshd")
    assert found.is_contiguous()
    torch.testing.assert_close(found.transpose(1, 2), attention(query, key, value))
    assert torch.equal(reference(*inputs(1, 1, 3, 0, 16)), torch.zeros(1, 1, 3, 16))


# With fewer channels and one query, sums that cancel would magnify their rounding.
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 90),
    st.integers(1, 140),
    st.integers(16, 100),
    st.sampled_from(["none", "boolean", "additive"]),
)
def test_any_shape(
    batches: int, kept: int, group: int, queries: int, keys: int, dim: int, kind: str
) -> None:
    qkv = inputs(batches, kept * group, queries, keys, dim, kept=kept)
    mask = noise(batches, 1, queries, keys, seed=3)
    mask = {"none": None, "boolean": mask > 0, "additive": mask}[kind]
    assert_near(attention(*qkv, mask), truth(*qkv, mask))


@pytest.mark.parametrize("chip", ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"])
@pytest.mark.parametrize(
    ("dim", "dtype"),
    [
        (40, torch.float32),
        (40, torch.float16),
        (64, torch.float16),
        (128, torch.float16),
        (160, torch.float16),
        (256, torch.float16),
    ],
)
def test_every_chip_s_cut(
    monkeypatch: pytest.MonkeyPatch, chip: str, dtype: torch.dtype, dim: int
) -> None:
    monkeypatch.setattr(operator, "chip_of", lambda _: chip)
    # Beyond a head's channels lie numbers. Triton 3.5's interpreter wants strides of 16 elements
    # for TMA, which the chips don't.
    wide = inputs(1, 1, 65, 139, -(-dim // 16) * 16, dtype)
    qkv = tuple(each[..., :dim] for each in wide)
    with kernel_runs("attention"):
        found = attention(*qkv)
    assert_near(found, truth(*qkv), times=TWICE)


@pytest.mark.parametrize(("chip", "most"), [("sm_80", 64), ("sm_90", 96), ("sm_100", 64)])
def test_how_wide_heads_are_in_fp32_depends_on_the_chip(
    monkeypatch: pytest.MonkeyPatch, chip: str, most: int
) -> None:
    monkeypatch.setattr(operator, "chip_of", lambda _: chip)
    qkv = inputs(1, 1, 65, 139, most)
    with kernel_runs("attention"):
        found = attention(*qkv)
    assert_near(found, truth(*qkv))
    qkv = inputs(1, 1, 5, 7, most + 16)
    with pytest.warns(SdaccelWarning, match=f"more than {most} channels a head in fp32 on {chip}"):
        found = attention(*qkv)
    assert_near(found, truth(*qkv))


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_it_compiles_into_one_graph(layout: Any) -> None:
    qkv = inputs(2, 3, 5, 3, 16) if layout == "bhsd" else inputs(2, 5, 3, 3, 16)
    qkv = (qkv[0], qkv[1][:, :3], qkv[2][:, :3])
    assert_traceable(attention, *qkv, layout=layout)


def test_the_cost() -> None:
    query, key, value = inputs(2, 4, 10, 20, 8, torch.float16, kept=2)
    cost = attention_cost(query, key, value)
    assert cost.bytes == 2 * (2 * query.numel() + key.numel() + value.numel())
    assert cost.flops == 4 * 2 * 4 * 10 * 20 * 8


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"query": noise(1, 2, 3, 16).double()}, "query is fp16, bf16 or fp32"),
        ({"query": noise(2, 3, 16)}, "query has shape"),
        ({"key": noise(1, 2, 5, 16).half()}, "key is torch.float16 and query torch.float32"),
        ({"key": noise(1, 2, 5, 8)}, "key has shape"),
        ({"key": noise(2, 2, 5, 16)}, "key has shape"),
        ({"value": noise(1, 2, 4, 16)}, "value has shape"),
        ({"value": noise(1, 2, 16, 5).transpose(2, 3)}, "value's channels lie side by side"),
        ({"key": noise(1, 3, 5, 16), "value": noise(1, 3, 5, 16)}, "3 do not"),
        ({"mask": noise(3, 4)}, "mask expands to"),
        ({"mask": noise(1, 1, 1, 3, 5)}, "mask expands to"),
        ({"mask": torch.ones(3, 5, dtype=torch.int64)}, "mask is fp16, bf16 or fp32"),
        ({"mask": torch.empty(3, 5, device="meta")}, "mask is on meta"),
        ({"key": torch.empty(1, 2, 5, 16, device="meta")}, "key is on meta"),
        ({"key_lengths": torch.ones(1)}, "key_lengths is int32"),
        ({"key_lengths": torch.ones(2, dtype=torch.int32)}, "key_lengths has shape"),
        ({"layout": "sbhd"}, "layout is one of"),
    ],
)
def test_bad_input_is_named(named: dict[str, Any], words: str) -> None:
    arguments = dict(zip(("query", "key", "value"), inputs(1, 2, 3, 5, 16), strict=True))
    with pytest.raises(ArgumentError, match=words):
        attention(**{**arguments, **named})


def test_16_bit_is_as_near_the_truth_as_torch_is() -> None:
    qkv = inputs(1, 2, 40, 150, 64, torch.float16)
    expected = truth(*qkv)
    stock = torch.nn.functional.scaled_dot_product_attention(*qkv)
    assert relative_error(attention(*qkv), expected) <= 1.25 * relative_error(stock, expected)
