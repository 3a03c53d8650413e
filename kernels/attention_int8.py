"""Attention whose scores are products of 8-bit integers: softmax(query key^T scale) value.

    score = int8(query) int8(key - mean)^T * scales         exact in int32, then fp32
    y     = softmax(score) value                            value in 16 bit, or in fp8 with scales

Shapes: query (B, H, S, D), key and value (B, Hk, T, D) in the layout "bhsd"; (B, S, H, D) and
(B, T, Hk, D) in "bshd". H is a multiple of Hk (GQA). Any strides, as long as channels lie side by
side; D up to 128. y is stored (B, S, H, D) contiguous, in query's dtype. `key_lengths` (B,) int32
says how many keys of a sample take part; a query without any gets zeros. What is quantized, and
why so, stands in `attention_quantization`.

"16bit" multiplies probabilities and value in value's own type, since fp16 can't hold all of bf16
(fp32 goes as bf16). "fp8" needs sm_89 or newer: probabilities are multiplied by 256, for the sake
of small ones, and 64 keys at a time are summed in the tensor cores, which keep fewer digits than
fp32. Where the largest score so far moves, what was summed is scaled, as in flash attention.

Work: 4 B H S T D operations, half of them at the rate of int8, twice that of 16 bit; with "fp8" all
of them at that rate. Memory: query, value and y once, key twice, and 8-bit copies.

Relative L2 error against attention in fp64, of 2,048 normal tokens, D 64 and 128, by the reference
on a CPU: 1.0% and 1.1%, with "fp8" 3.6% and 3.8%, in fp16 and bf16 alike. With an offset of ten
deviations in each channel of key it is the same, but 6% without smoothing; with every 31st query
tenfold and every 97th key fivefold, 2.0% and 2.2%. Where value has a mean as large as its
deviation, errors of scores cancel: 0.05% in fp16, 0.18% in bf16, 0.3% with "fp8". torch's own
attention has 0.03% in fp16 and 0.2% in bf16.

Source: Zhang et al., "SageAttention" (2024) and "SageAttention2" (2024); Dao et al.,
"FlashAttention" (2022), for softmax in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch

from .arguments import check_choice
from .attention_arguments import (
    AttentionLayout,
    check_attention,
    check_key_lengths,
    tokens_first,
)
from .attention_quantization import (
    KEY_BLOCK,
    keys_inside,
    keys_within,
    multiplied_dtype,
    quantize_attention,
    quantize_attention_reference,
    widths,
)
from .cost import Cost, size
from .language import interpreted, tl, triton
from .operator import Config, Operator, UnsupportedError, chip_of, launch
from .rotary import unit_of

ValueType = Literal["16bit", "fp8"]

MOST_CHANNELS = 128
_AXES = {False: (0, 2, 1, 3), True: (0, 1, 3, 2)}
"""Where batch, head, token and channel of value are: as given, or in fp8."""
_MOST_SCORES = 1 << 26
"""What the reference holds at a time."""


@triton.jit
def _scores(
    query,
    query_tail,
    key_ptr,
    KEYS: tl.constexpr,
    KEY_MAIN: tl.constexpr,
    KEY_TAIL: tl.constexpr,
):
    """The products with KEYS keys, not yet scaled, in fp32, which holds them exactly."""
    key_ptrs = key_ptr + tl.arange(0, KEYS)[None, :] * (KEY_MAIN + KEY_TAIL)
    key = tl.load(key_ptrs + tl.arange(0, KEY_MAIN)[:, None])
    score = tl.dot(query, key, out_dtype=tl.int32)
    if KEY_TAIL:
        key = tl.load(key_ptrs + (KEY_MAIN + tl.arange(0, KEY_TAIL))[:, None])
        score = tl.dot(query_tail, key, score, out_dtype=tl.int32)
    return score.to(tl.float32)


@triton.jit
def _add_values(
    y,
    weight,
    fading,
    value_ptrs,
    channel_stride,
    present,
    MASKED: tl.constexpr,
    FP8: tl.constexpr,
    WIDENED: tl.constexpr,
    DIM: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """y * fading + weight @ value, for WIDTH channels from FIRST on.

    Sums of fp8 products start anew each time: an accumulator of fp8 has fewer digits than fp32.
    """
    channel = FIRST + tl.arange(0, WIDTH)
    value_ptrs += channel[None, :] * channel_stride
    if FP8:
        y = y * fading[:, None] + tl.dot(weight, tl.load(value_ptrs))
    else:
        if MASKED:
            value = tl.load(value_ptrs, present[:, None] & (channel < DIM)[None, :], 0.0)
        elif FIRST + WIDTH > DIM:
            value = tl.load(value_ptrs, (channel < DIM)[None, :], 0.0)
        else:
            value = tl.load(value_ptrs)
        if WIDENED:
            weight, value = weight.to(tl.float32), value.to(tl.float32)
        y = tl.dot(weight, value, y * fading[:, None])
    return y


@triton.jit
def _store(
    y_ptr,
    y,
    inverse,
    scale_ptr,
    row,
    tokens,
    row_stride,
    DIM: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write y * inverse, times the scale of each channel, for WIDTH channels from FIRST on."""
    channel = FIRST + tl.arange(0, WIDTH)
    y = y * inverse[:, None]
    if scale_ptr is not None:
        y *= tl.load(scale_ptr + channel)[None, :]
    inside = (row < tokens)[:, None] & (channel < DIM)[None, :]
    place = row.to(tl.int64)[:, None] * row_stride + channel[None, :]
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _attention_int8_kernel(
    query_ptr,
    query_scale_ptr,
    key_ptr,
    key_scale_ptr,
    value_ptr,
    value_scale_ptr,
    lengths_ptr,
    y_ptr,
    tokens,
    key_tokens,
    heads,
    group,
    padded_tokens,
    key_blocks,
    value_batch,
    value_head,
    value_token,
    value_channel,
    FP8: tl.constexpr,
    WIDENED: tl.constexpr,
    UNIT: tl.constexpr,
    DIM: tl.constexpr,
    KEY_MAIN: tl.constexpr,
    KEY_TAIL: tl.constexpr,
    VALUE_MAIN: tl.constexpr,
    VALUE_TAIL: tl.constexpr,
    KEYS: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """One block of queries of one head, over all keys; channels are a main part and a tail.

    The largest score is found before scores are scaled, since scales are above zero: scaling and
    subtracting the largest are one instruction then.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(tokens, QUERIES)
    batch_head = (program // blocks).to(tl.int64)
    batch, head = batch_head // heads, batch_head % heads
    key_batch_head = batch * (heads // group) + head // group
    row = program % blocks * QUERIES + tl.arange(0, QUERIES)

    query_ptrs = query_ptr + batch_head * padded_tokens * (KEY_MAIN + KEY_TAIL)
    query_ptrs += row[:, None] * (KEY_MAIN + KEY_TAIL)
    query = tl.load(query_ptrs + tl.arange(0, KEY_MAIN)[None, :])
    query_tail = query
    if KEY_TAIL:
        query_tail = tl.load(query_ptrs + (KEY_MAIN + tl.arange(0, KEY_TAIL))[None, :])
    row_scale = tl.load(query_scale_ptr + batch_head * padded_tokens + row)
    key_ptr += key_batch_head * key_blocks * KEYS * (KEY_MAIN + KEY_TAIL)
    key_scale_ptr += key_batch_head * key_blocks
    value_ptr += (batch * value_batch + head // group * value_head) * UNIT

    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    y = tl.zeros((QUERIES, VALUE_MAIN), tl.float32)
    if VALUE_TAIL:
        y_tail = tl.zeros((QUERIES, VALUE_TAIL), tl.float32)
    length = keys_within(lengths_ptr, batch, key_tokens)
    whole = length // KEYS * KEYS
    for masked in tl.static_range(2):  # all whole blocks, then what is left
        for start in range(whole if masked else 0, length if masked else whole, KEYS):
            factor = row_scale * tl.load(key_scale_ptr + start // KEYS)
            keys = key_ptr + start * (KEY_MAIN + KEY_TAIL)
            score = _scores(query, query_tail, keys, KEYS, KEY_MAIN, KEY_TAIL)
            present = start + tl.arange(0, KEYS) < length
            if masked:
                score = tl.where(present[None, :], score, float("-inf"))
            higher = tl.maximum(highest, factor * tl.max(score, axis=1))
            fading = tl.exp2(highest - higher)
            highest = higher
            # in fp8, whose smallest number is 2**-9, the largest becomes 2**8
            weight = tl.exp2(score * factor[:, None] - (higher - (8 if FP8 else 0))[:, None])
            total = total * fading + tl.sum(weight, axis=1)
            weight = weight.to(value_ptr.dtype.element_ty)
            value_ptrs = value_ptr + tl.cast(start, tl.int64) * value_token * UNIT
            value_ptrs += tl.arange(0, KEYS)[:, None] * (value_token * UNIT)
            y = _add_values(
                y,
                weight,
                fading,
                value_ptrs,
                value_channel,
                present,
                masked,
                FP8,
                WIDENED,
                DIM,
                0,
                VALUE_MAIN,
            )
            if VALUE_TAIL:
                y_tail = _add_values(
                    y_tail,
                    weight,
                    fading,
                    value_ptrs,
                    value_channel,
                    present,
                    masked,
                    FP8,
                    WIDENED,
                    DIM,
                    VALUE_MAIN,
                    VALUE_TAIL,
                )

    inverse = 1.0 / tl.where(total == 0.0, 1.0, total)
    y_ptr += (batch * tokens * heads + head) * DIM
    if FP8:
        value_scale_ptr += key_batch_head * (VALUE_MAIN + VALUE_TAIL)
    stride = heads * DIM
    _store(y_ptr, y, inverse, value_scale_ptr, row, tokens, stride, DIM, 0, VALUE_MAIN)
    if VALUE_TAIL:
        _store(
            y_ptr,
            y_tail,
            inverse,
            value_scale_ptr,
            row,
            tokens,
            stride,
            DIM,
            VALUE_MAIN,
            VALUE_TAIL,
        )


def _run(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_lengths: torch.Tensor | None,
    scale: float,
    value_dtype: str,
    smooth_key: bool,
) -> torch.Tensor:
    batches, tokens, heads, dim = query.shape
    fp8 = value_dtype == "fp8"
    _check_limits(query, fp8)
    quantized = quantize_attention(query, key, value, key_lengths, scale, smooth_key, fp8)
    batch, head, token, channel = (quantized.value.stride(axis) for axis in _AXES[fp8])
    unit = 1 if fp8 else unit_of(8, batch, head, token)
    y = query.new_empty(query.shape)
    arguments = {
        "query_ptr": quantized.query,
        "query_scale_ptr": quantized.query_scale,
        "key_ptr": quantized.key,
        "key_scale_ptr": quantized.key_scale,
        "value_ptr": quantized.value,
        "value_scale_ptr": quantized.value_scale,
        "lengths_ptr": key_lengths,
        "y_ptr": y,
        "tokens": tokens,
        "key_tokens": key.shape[1],
        "heads": heads,
        "group": heads // key.shape[2],
        "padded_tokens": quantized.query.shape[2],
        "key_blocks": quantized.key_scale.shape[2],
        "value_batch": batch // unit,
        "value_head": head // unit,
        "value_token": token // unit,
        "value_channel": channel,
    }
    constants = {
        "FP8": fp8,
        # Triton's interpreter would multiply the bits of bf16
        "WIDENED": interpreted() and quantized.value.dtype == torch.bfloat16,
        "UNIT": unit,
        "DIM": dim,
        **dict(zip(("KEY_MAIN", "KEY_TAIL"), widths(dim, 32), strict=True)),
        **dict(zip(("VALUE_MAIN", "VALUE_TAIL"), widths(dim, 16), strict=True)),
        "KEYS": KEY_BLOCK,
    }
    launch(
        _attention_int8_kernel,
        lambda config: (batches * heads * triton.cdiv(tokens, config.blocks["QUERIES"]),),
        arguments,
        constants,
        partial(_config, dim),
    )
    return y


def _check_limits(query: torch.Tensor, fp8: bool) -> None:
    """Raise `UnsupportedError` for what the kernel, or the chip, has no way to do."""
    if query.shape[-1] > MOST_CHANNELS:
        raise UnsupportedError(f"heads of more than {MOST_CHANNELS} channels")
    chip = chip_of(query.device)
    if fp8 and chip and (chip.startswith("gfx") or int(chip.removeprefix("sm_")) < 89):
        raise UnsupportedError(f"{chip} has no fp8 (e4m3)")


def _config(dim: int, chip: str) -> Config:
    """128 queries a program: with 4 warps instead of 8, registers spill on sm_86, 89 and 120."""
    if chip.startswith("gfx"):
        return Config({"QUERIES": 128}, warps=4 if dim <= 64 else 8, stages=2)
    return Config({"QUERIES": 128}, warps=8, stages=3)


def attention_int8(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None = None,
    layout: AttentionLayout = "bhsd",
    value_dtype: ValueType = "16bit",
    key_lengths: torch.Tensor | None = None,
    smooth_key: bool = True,
) -> torch.Tensor:
    """Attention in 8 bit, as its layout says; formula and shapes stand above. LOWER_PRECISION.

    scale is 1 / sqrt(D) unless it is given. smooth_key=False leaves key's mean in, which saves one
    read of key, and is right where it is known to be small.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    check_attention(query, key, value, layout)
    check_key_lengths(key_lengths, query)
    check_choice("value_dtype", value_dtype, ("16bit", "fp8"))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query, key, value = (tokens_first(x, layout) for x in (query, key, value))
    y = _OP(query, key, value, key_lengths, scale, value_dtype, smooth_key)
    return tokens_first(y, layout)


def attention_int8_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_lengths: torch.Tensor | None,
    scale: float,
    value_dtype: str,
    smooth_key: bool,
) -> torch.Tensor:
    """The same in plain torch, with whole numbers in fp32, some queries at a time."""
    y = query.new_zeros(query.shape)
    if not key.shape[1]:
        return y
    fp8, group = value_dtype == "fp8", query.shape[2] // key.shape[2]
    parts = quantize_attention_reference(query, key, value, key_lengths, scale, smooth_key, fp8)
    of_key = (parts.key, parts.key_scale, parts.value)
    keys, key_scale, values = (x.repeat_interleave(group, 1) for x in of_key)
    outside = ~keys_inside(key.shape[1], key_lengths, key.device).mT
    dtype = torch.float8_e4m3fn if fp8 else multiplied_dtype(value)
    rows = max(1, _MOST_SCORES // max(1, key_scale.numel()))
    for first in range(0, query.shape[1], rows):
        part = slice(first, first + rows)
        score = parts.query[:, :, part] @ keys.mT * (parts.query_scale[:, :, part] * key_scale.mT)
        weight, total = _weights(score.masked_fill(outside, -torch.inf), dtype)
        y[:, part] = (weight @ values / total).transpose(1, 2)
    return y


def _weights(score: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """2 to the scores, rounded to a dtype, and their sums before that; no sum is zero."""
    highest = score.amax(-1, keepdim=True)
    highest = torch.where(highest == -torch.inf, 0.0, highest)
    weight = (score - highest + (8 if dtype == torch.float8_e4m3fn else 0)).exp2()
    total = weight.sum(-1, keepdim=True)
    return weight.to(dtype).float(), torch.where(total == 0, 1.0, total)


def attention_int8_cost(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: AttentionLayout = "bhsd",
    value_dtype: ValueType = "16bit",
) -> Cost:
    """Query, value and y once, key twice; 8-bit copies written and read; 4 B H S T D operations."""
    copied = query.numel() + key.numel() + (value.numel() if value_dtype == "fp8" else 0)
    again = (value,) if value_dtype == "fp8" else ()
    tokens = key.shape[2 if layout == "bhsd" else 1]
    return Cost(
        size(query, query, key, key, value, *again) + 2 * copied, 4 * query.numel() * tokens
    )


def ahead_of_time() -> Iterator[str]:
    """Launch the kernels at the shapes of real models, for compiling without a GPU; see `ahead`."""
    for name, heads, tokens, dim, dtype in (
        ("FLUX", 24, 4608, 128, torch.bfloat16),
        ("SDXL", 10, 4096, 64, torch.float16),
        ("PixArt", 16, 4096, 72, torch.float16),
        ("Wan-14B", 40, 32760, 128, torch.bfloat16),
    ):
        x = torch.empty(1, tokens, heads, dim, dtype=dtype, device="meta")
        for value_dtype in ("16bit", "fp8"):
            _run(x, x, x, None, dim**-0.5, value_dtype, True)
            yield f"{name} {value_dtype}"


_OP = Operator(
    "attention_int8",
    "(Tensor query, Tensor key, Tensor value, Tensor? key_lengths, float scale, str value_dtype, "
    "bool smooth_key) -> Tensor",
    launch=_run,
    reference=attention_int8_reference,
    fake=lambda query, *_: query.new_empty(query.shape),
)
