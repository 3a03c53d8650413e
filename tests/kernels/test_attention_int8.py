"""attention_int8: the kernel against plain torch that quantizes alike, and both against the truth.

The truth is attention in float64, of what isn't quantized.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_rounding import gpu_rounding
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_traceable, kernel_runs, noise, relative_error

from sdaccel.errors import ArgumentError, SdaccelWarning
from sdaccel.kernels import operator
from sdaccel.kernels.attention_int8 import (
    attention_int8,
    attention_int8_cost,
    attention_int8_reference,
)
from sdaccel.kernels.attention_quantization import widths

ALIKE = {torch.float32: 3e-3, torch.float16: 8e-4, torch.bfloat16: 4e-3}
"""Relative L2 distance of kernel and reference: each rounds probabilities by its own largest score,
in bf16 where value is fp32, and then the result."""
FP8 = 4e-2
"""The same where probabilities are rounded to fp8."""


@pytest.fixture(autouse=True, scope="module")
def _rounded() -> Iterator[None]:
    with gpu_rounding():
        yield


def inputs(
    *shape: int,
    keys: int | None = None,
    heads: int | None = None,
    dtype: torch.dtype = torch.float16,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normal query (B, H, S, D), key and value (B, heads, keys, D)."""
    batch, query_heads, tokens, dim = shape
    other = (batch, heads or query_heads, tokens if keys is None else keys, dim)
    return (
        noise(*shape, dtype=dtype),
        noise(*other, dtype=dtype, seed=1),
        noise(*other, dtype=dtype, seed=2),
    )


def truth(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """Spelled out in float64, (B, H, S, D)."""
    query, key, value = query.double(), key.double(), value.double()
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return (query @ key.mT * scale).softmax(-1) @ value


def reference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **named: Any
) -> torch.Tensor:
    """The reference, (B, H, S, D)."""
    arguments = {
        "key_lengths": None,
        "scale": query.shape[-1] ** -0.5,
        "value_dtype": "16bit",
        "smooth_key": True,
        **named,
    }
    return attention_int8_reference(query, key, value, **arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [8, 40, 64, 72, 80, 96, 128])
def test_the_kernel_quantizes_as_its_reference(dim: int, dtype: torch.dtype) -> None:
    given = inputs(2, 2, 70, dim, keys=200, dtype=dtype)
    with kernel_runs("attention_int8"):
        found = attention_int8(*given)
    assert found.dtype == dtype
    assert relative_error(found, reference(*given)) < ALIKE[dtype]
    assert relative_error(found, truth(*given)) < 2e-2


@pytest.mark.parametrize("dim", [40, 64, 72, 80, 96, 128])
def test_value_may_go_in_fp8(dim: int) -> None:
    given = inputs(1, 2, 70, dim, keys=200)
    with kernel_runs("attention_int8"):
        found = attention_int8(*given, value_dtype="fp8")
    assert relative_error(found, reference(*given, value_dtype="fp8")) < FP8
    assert relative_error(found, truth(*given)) < 6e-2


@pytest.mark.parametrize("value_dtype", ["16bit", "fp8"])
def test_within_one_block_nothing_but_the_order_of_sums_differs(value_dtype: Any) -> None:
    given = inputs(1, 2, 5, 72, keys=61, dtype=torch.float32)
    found = attention_int8(*given, value_dtype=value_dtype)
    assert relative_error(found, reference(*given, value_dtype=value_dtype)) < 2e-4


def test_what_int8_holds_is_not_changed() -> None:
    query, key = ((50 * noise(1, 2, 90, 64, seed=i)).round().clamp(-127, 127) for i in range(2))
    query[..., 0], key[..., 0] = 127, 127
    value = noise(1, 2, 90, 64, dtype=torch.float16)
    given = (query.half(), key.half(), value)
    found = attention_int8(*given, scale=1e-4, smooth_key=False)
    assert relative_error(found, truth(*given, scale=1e-4)) < 8e-4


def test_smoothing_takes_away_what_an_offset_of_key_costs() -> None:
    query, key, value = inputs(1, 2, 128, 64, keys=256)
    shifted = key + 20 * noise(1, 2, 1, 64, seed=3).half()
    true = truth(query, shifted, value)
    smooth, rough = (
        relative_error(attention_int8(query, shifted, value, smooth_key=smooth), true)
        for smooth in (True, False)
    )
    plain = relative_error(attention_int8(query, key, value), truth(query, key, value))
    assert smooth < 1.5 * plain
    assert rough > 8 * smooth


def test_tokens_that_stand_out_cost_only_their_neighbours_digits() -> None:
    query, key, value = inputs(1, 2, 128, 64, keys=256)
    query[:, :, ::31] *= 10
    key[:, :, ::97] *= 5
    assert relative_error(attention_int8(query, key, value), truth(query, key, value)) < 8e-2


@pytest.mark.parametrize("value_dtype", ["16bit", "fp8"])
def test_heads_of_query_share_those_of_key(value_dtype: Any) -> None:
    given = inputs(2, 6, 33, 64, keys=50, heads=2)
    found = attention_int8(*given, value_dtype=value_dtype)
    assert relative_error(found, reference(*given, value_dtype=value_dtype)) < 1e-3
    assert relative_error(found, truth(*given)) < 6e-2


def test_both_layouts_are_the_same_attention() -> None:
    given = inputs(2, 3, 33, 64, keys=50)
    found = attention_int8(*given)
    moved = attention_int8(*(x.transpose(1, 2).contiguous() for x in given), layout="bshd")
    assert torch.equal(found, moved.transpose(1, 2))
    assert found.transpose(1, 2).is_contiguous()
    assert moved.is_contiguous()


@pytest.mark.parametrize("value_dtype", ["16bit", "fp8"])
@pytest.mark.parametrize("how", ["packed", "sliced", "one key for all", "no head's own"])
def test_strides_of_every_kind(how: str, value_dtype: Any) -> None:
    packed = noise(2, 40, 3, 2, 64, dtype=torch.float16)
    query, key, value = packed.transpose(1, 3).unbind(2)
    if how == "sliced":
        query, key, value = query[:, :, 3:], key[:, :, :33, :40], value[:, :, 7:, :40]
        query = query[..., 8:48]
    elif how == "one key for all":
        key, value = key[:1].expand(2, -1, -1, -1), value[:1].expand(2, -1, -1, -1)
    elif how == "no head's own":
        key, value = key[:, :1].expand(-1, 2, -1, -1), value[:, :1].expand(-1, 2, -1, -1)
    with kernel_runs("attention_int8"):
        found = attention_int8(query, key, value, value_dtype=value_dtype)
    whole = (x.contiguous() for x in (query, key, value))
    assert torch.equal(found, attention_int8(*whole, value_dtype=value_dtype))
    assert relative_error(found, truth(query, key, value)) < 6e-2


@pytest.mark.parametrize("value_dtype", ["16bit", "fp8"])
def test_keys_beyond_a_sample_s_length_are_as_if_they_were_not(value_dtype: Any) -> None:
    query, key, value = inputs(5, 2, 20, 40, keys=140)
    lengths = [0, 1, 64, 77, 500]
    for sample, length in enumerate(lengths):
        key[sample, :, length:] = torch.nan
        value[sample, :, length:] = torch.inf
    named = {
        "key_lengths": torch.tensor(lengths, dtype=torch.int32),
        "value_dtype": value_dtype,
    }
    with kernel_runs("attention_int8"):
        found = attention_int8(query, key, value, **named)
    assert not found[0].any()
    for sample, length in enumerate(lengths[1:], 1):
        alone = (
            query[sample, None],
            key[sample, None, :, :length],
            value[sample, None, :, :length],
        )
        expected = attention_int8(*alone, value_dtype=value_dtype)
        assert relative_error(found[sample, None], expected) < 1e-3
    assert relative_error(found, reference(query, key, value, **named)) < 4e-2


@pytest.mark.parametrize("value_dtype", ["16bit", "fp8"])
@pytest.mark.parametrize(
    ("tokens", "keys"), [(1, 1), (1, 65), (129, 1), (128, 64), (127, 129), (2, 127)]
)
def test_lengths_beside_those_of_a_block(tokens: int, keys: int, value_dtype: Any) -> None:
    given = inputs(1, 2, tokens, 32, keys=keys)
    found = attention_int8(*given, value_dtype=value_dtype)
    assert relative_error(found, truth(*given)) < 6e-2


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.2])
def test_the_scale_is_what_is_given(scale: float) -> None:
    given = inputs(1, 1, 20, 64, keys=30)
    assert relative_error(attention_int8(*given, scale=scale), truth(*given, scale)) < 4e-2


@pytest.mark.parametrize("value_dtype", ["16bit", "fp8"])
def test_values_of_any_size_stay_finite(value_dtype: Any) -> None:
    query, key, value = inputs(1, 1, 20, 64, keys=70)
    large = (100 * query, 100 * key, (6e4 * value.float() / value.abs().max()).half())
    found = attention_int8(*large, value_dtype=value_dtype)  # scores up to a million
    assert torch.isfinite(found).all()
    assert relative_error(found, truth(*large)) < 6e-2
    zeros = torch.zeros(1, 1, 20, 64)
    assert not attention_int8(zeros, zeros, zeros, value_dtype=value_dtype).any()
    wide = value.bfloat16() * 1e30
    found = attention_int8(query.bfloat16(), key.bfloat16(), wide, value_dtype=value_dtype)
    assert relative_error(found, truth(query.bfloat16(), key.bfloat16(), wide)) < 6e-2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter
@pytest.mark.parametrize("value_dtype", ["16bit", "fp8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_get_lost(bad: float, value_dtype: Any) -> None:
    for place in range(3):
        given = inputs(1, 1, 70, 64, keys=70)
        given[place][0, 0, 3, 5] = bad
        for found in (
            attention_int8(*given, value_dtype=value_dtype),
            reference(*given, value_dtype=value_dtype),
        ):
            assert not torch.isfinite(found).all()


@pytest.mark.parametrize(("batch", "tokens", "keys"), [(0, 4, 4), (2, 0, 4), (2, 4, 0)])
def test_nothing_in_nothing_out(batch: int, tokens: int, keys: int) -> None:
    given = inputs(batch, 2, tokens, 64, keys=keys)
    for value_dtype in ("16bit", "fp8"):
        found = attention_int8(*given, value_dtype=value_dtype)
        assert found.shape == given[0].shape
        assert not found.any()
        assert torch.equal(reference(*given, value_dtype=value_dtype), found)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(1, 2),
    st.sampled_from([(1, 1), (2, 1), (3, 3)]),
    st.integers(1, 140),
    st.integers(1, 140),
    st.integers(1, 128),
)
def test_any_shape(batch: int, heads: tuple[int, int], tokens: int, keys: int, dim: int) -> None:
    given = inputs(batch, heads[0], tokens, dim, keys=keys, heads=heads[1])
    found = attention_int8(*given)
    assert relative_error(found, reference(*given)) < 2e-3
    assert relative_error(found, truth(*given)) < 3e-2


def test_the_reference_goes_through_queries_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(1, 2, 70, 64, keys=30)
    whole = reference(*given)
    monkeypatch.setattr("sdaccel.kernels.attention_int8._MOST_SCORES", 1000)
    torch.testing.assert_close(reference(*given), whole)


def test_heads_beyond_the_limit_take_plain_torch() -> None:
    given = inputs(1, 1, 9, 160, keys=20)
    with pytest.warns(SdaccelWarning, match="heads of more than 128 channels"):
        found = attention_int8(*given)
    assert torch.equal(found, reference(*given))


@pytest.mark.parametrize("chip", ["sm_86", "gfx942"])
def test_chips_without_fp8_take_plain_torch(chip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdaccel.kernels.attention_int8.chip_of", lambda _: chip)
    given = inputs(1, 1, 9, 64, keys=20)
    with pytest.warns(SdaccelWarning, match=f"{chip} has no fp8"):
        found = attention_int8(*given, value_dtype="fp8")
    assert torch.equal(found, reference(*given, value_dtype="fp8"))
    with kernel_runs("attention_int8"):
        attention_int8(*given)


@pytest.mark.parametrize("chip", ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"])
@pytest.mark.parametrize(("dim", "value_dtype"), [(40, "16bit"), (72, "fp8"), (128, "16bit")])
def test_every_chip_s_cut_is_the_same_attention(
    monkeypatch: pytest.MonkeyPatch, chip: str, dim: int, value_dtype: Any
) -> None:
    """With TMA where the chip has it; what lies beyond a sample's length is not finite."""
    monkeypatch.setattr(operator, "chip_of", lambda _: chip)
    # Triton 3.5's interpreter wants strides of 16 elements for TMA, which the chips don't
    wide = inputs(2, 2, 70, -(-dim // 16) * 16, keys=150)
    query, key, value = (each[..., :dim] for each in wide)
    lengths = torch.tensor([150, 131], dtype=torch.int32)
    expected = reference(query, key, value, key_lengths=lengths, value_dtype=value_dtype)
    key[1, :, 131:] = value[1, :, 131:] = float("nan")
    with kernel_runs("attention_int8"):
        found = attention_int8(query, key, value, key_lengths=lengths, value_dtype=value_dtype)
    assert relative_error(found, expected) <= (FP8 if value_dtype == "fp8" else ALIKE[query.dtype])


def test_channels_are_cut_without_rounding_up_to_the_next_power() -> None:
    assert [sum(widths(dim, 16)) for dim in (8, 40, 64, 72, 80, 96, 112, 128)] == [
        *(16, 48, 64, 80, 80, 96, 128, 128)
    ]
    assert [widths(dim, 32) for dim in (8, 40, 72, 128)] == [(32, 0), (64, 0), (64, 32), (128, 0)]


def test_it_compiles_into_one_graph() -> None:
    assert_traceable(attention_int8, *inputs(1, 2, 9, 64, keys=20))
    lengths = torch.tensor([7], dtype=torch.int32)
    assert_traceable(
        attention_int8,
        *inputs(1, 9, 2, 64, keys=2),
        layout="bshd",
        value_dtype="fp8",
        key_lengths=lengths,
    )


def test_the_cost_counts_what_quantizing_moves() -> None:
    query, key, value = inputs(1, 2, 8, 64, keys=16)
    cost = attention_int8_cost(query, key, value)
    assert cost.flops == 4 * 2 * 8 * 16 * 64
    assert cost.bytes == 2 * 64 * (2 * 2 * 8 + 3 * 2 * 16) + 2 * 2 * 64 * (8 + 16)
    moved = attention_int8_cost(*(x.transpose(1, 2) for x in (query, key, value)), layout="bshd")
    assert moved == cost


Q, K = noise(1, 4, 8, 64), noise(1, 2, 9, 64)


@pytest.mark.parametrize(
    ("arguments", "named", "words"),
    [
        ((Q, K, K.half()), {}, "value is torch.float16 and query torch.float32"),
        ((Q.double(), K, K), {}, "query is fp16, bf16 or fp32"),
        ((Q[0], K, K), {}, r"query has shape \[4, 8, 64\]"),
        ((Q, K[..., :32], K), {}, r"key has shape \[1, 2, 9, 32\]"),
        ((Q, K, K[:, :, 1:]), {}, "value has shape"),
        ((Q[:, :3], K, K), {}, "key's heads divide query's 3; 2 do not"),
        ((Q, K.mT.contiguous().mT, K), {}, "key's channels lie side by side"),
        ((Q, K, K.to("meta")), {}, "value is on meta"),
        ((Q, K, K), {"layout": "sbhd"}, "layout is one of 'bhsd', 'bshd'"),
        ((Q, K, K), {"value_dtype": "int8"}, "value_dtype is one of '16bit', 'fp8'"),
        ((Q, K, K), {"key_lengths": noise(1).long()}, "key_lengths is int32"),
        ((Q, K, K), {"key_lengths": noise(2).int()}, "key_lengths has shape"),
    ],
)
def test_bad_input_is_named(arguments: Any, named: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        attention_int8(*arguments, **named)
