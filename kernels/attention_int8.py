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
of small ones, and 64 or 128 keys at a time are summed in the tensor cores, which keep fewer digits
than fp32. Where the largest score so far moves, what was summed is scaled, as in flash attention.
Scores beyond 10^7, whose neighbours fp32 no longer tells apart, may come out wrong or as NaN.

On sm_90 the tensor memory accelerator fetches keys and values, unless value is expanded or its rows
begin at no multiple of 16 bytes.

Work: 4 B H S T D operations, half of them at the rate of int8, twice that of 16 bit; with "fp8" all
of them at that rate. Memory: query, value and y once, key twice, and 8-bit copies.

Relative L2 error against attention in fp64, of 2,048 normal tokens, D 64 and 128, by the reference
on a CPU: 1.1% and 1.2%, with "fp8" 3.6% and 3.9%, in fp16 and bf16 alike. With an offset of ten
deviations in each channel of key it is the same, but 6% without smoothing; with every 31st query
tenfold and every 97th key fivefold, 2.0% and 2.4%. Where value has a mean as large as its
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
    Layout,
    check_lengths,
    check_tensors,
    empty_result,
    heads_before_tokens,
)
from .attention_cuts import family_of
from .attention_int8_tiles import attention_int8_kernel
from .attention_quantization import (
    BLOCK,
    QuantizedAttention,
    keys_inside,
    multiplied_dtype,
    quantize_attention,
    quantize_attention_reference,
    widths,
)
from .cost import Cost, size
from .language import interpreted, triton
from .operator import Config, Operator, UnsupportedError, chip_of, launch, takes_boxes
from .rotary import unit_of

ValueType = Literal["16bit", "fp8"]

MOST_CHANNELS = 128
_MOST_SCORES = 1 << 26
"""What the reference holds at a time."""


def _run(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_lengths: torch.Tensor | None,
    scale: float,
    value_dtype: str,
    smooth_key: bool,
) -> torch.Tensor:
    batches, heads, tokens, dim = query.shape
    fp8 = value_dtype == "fp8"
    _check_limits(query, fp8)
    y = empty_result(query, "bhsd")
    if y.numel() == 0 or key.shape[2] == 0:
        return y.zero_()
    parts = quantize_attention(query, key, value, key_lengths, scale, smooth_key, fp8)
    unit = 1 if fp8 else unit_of(8, *parts.value.stride()[:3])
    arguments = {
        **_quantized(parts, dim, unit),
        "lengths_ptr": key_lengths,
        "y_ptr": y,
        "tokens": tokens,
        "key_tokens": key.shape[2],
        "heads": heads,
        "group": heads // key.shape[1],
    }
    constants = {
        "FP8": fp8,
        # Triton's interpreter would multiply the bits of bf16
        "WIDENED": interpreted() and parts.value.dtype == torch.bfloat16,
        "UNIT": unit,
        "DIM": dim,
        **dict(zip(("KEY_MAIN", "KEY_TAIL"), widths(dim, 32), strict=True)),
        **dict(zip(("VALUE_MAIN", "VALUE_TAIL"), widths(dim, 16), strict=True)),
        "BLOCK": BLOCK,
    }
    launch(
        attention_int8_kernel,
        lambda config: (batches * heads * triton.cdiv(tokens, config.blocks["QUERIES"]),),
        arguments,
        constants,
        partial(_config, dim, fp8, takes_boxes(parts.key, parts.value)),
    )
    return y


def _quantized(parts: QuantizedAttention, dim: int, unit: int) -> dict[str, object]:
    """A kernel's arguments for what is quantized: a tensor of two parts is given twice, for TMA.

    The third stride of value is a token's, and where it is fp8 a channel's.
    """
    batch, head, step = (stride // unit for stride in parts.value.stride()[:3])
    return {
        "query_ptr": parts.query,
        "query_scale_ptr": parts.query_scale,
        "key": parts.key,
        "key_tail": parts.key if widths(dim, 32)[1] else None,
        "key_scale_ptr": parts.key_scale,
        "value": parts.value,
        "value_tail": parts.value if widths(dim, 16)[1] else None,
        "value_scale_ptr": parts.value_scale,
        "padded_tokens": parts.query.shape[2],
        "key_blocks": parts.key_scale.shape[2],
        "value_batch": batch,
        "value_head": head,
        "value_step": step,
    }


def _check_limits(query: torch.Tensor, fp8: bool) -> None:
    """Raise `UnsupportedError` for what the kernel, or the chip, has no way to do."""
    if query.shape[-1] > MOST_CHANNELS:
        raise UnsupportedError(f"heads of more than {MOST_CHANNELS} channels")
    chip = chip_of(query.device)
    if fp8 and chip and (chip.startswith("gfx") or int(chip.removeprefix("sm_")) < 89):
        raise UnsupportedError(f"{chip} has no fp8 (e4m3)")


def _config(dim: int, fp8: bool, boxes: bool, chip: str) -> Config:
    """How the kernel is cut: the more keys at a time, the more seldom are sums scaled.

    64 keys are for chips whose registers would spill with 128; so they would on sm_86, 89 and 120
    with 4 warps, and on gfx942 with 8. Keys and values come through TMA on sm_90, which was not
    measured; on sm_100 and sm_120 it takes fewer registers with Triton 3.9, but spills with 3.5.
    """
    family = family_of(chip)
    if family == "gfx942":
        return Config({"QUERIES": 128, "KEYS": 64, "TMA": 0}, warps=4, stages=2)
    most = {"sm_100": 128, "sm_90": 96 if fp8 else 128}.get(family, 64)
    keys = 128 if dim <= most else 64
    tma = boxes and family == "sm_90"
    blocks = {"QUERIES": 128, "KEYS": keys, "TMA": int(tma)}
    return Config(blocks, 8, 3, _boxes(dim, fp8, keys) if tma else {})


def _boxes(dim: int, fp8: bool, keys: int) -> dict[str, tuple[int, ...]]:
    """The TMA boxes of the kernel's tensors by name."""
    found: dict[str, tuple[int, ...]] = {}
    for name, parts in (("key", widths(dim, 32)), ("value", widths(dim, 16))):
        for end, width in zip(("", "_tail"), parts, strict=True):
            if width:
                tile = (width, keys) if fp8 and name == "value" else (keys, width)
                found[name + end] = (1, 1, *tile)
    return found


def attention_int8(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None = None,
    layout: Layout = "bhsd",
    value_dtype: ValueType = "16bit",
    key_lengths: torch.Tensor | None = None,
    smooth_key: bool = True,
) -> torch.Tensor:
    """Attention in 8 bit, as its layout says; formula and shapes stand above. LOWER_PRECISION.

    scale is 1 / sqrt(D) unless it is given. smooth_key=False leaves key's mean in, which saves one
    read of key, and is right where it is known to be small.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    check_choice("layout", layout, ("bhsd", "bshd"))
    check_choice("value_dtype", value_dtype, ("16bit", "fp8"))
    check_tensors(query, key, value, layout)
    check_lengths(query, key_lengths)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query, key, value = (heads_before_tokens(x, layout) for x in (query, key, value))
    y = _OP(query, key, value, key_lengths, scale, value_dtype, smooth_key)
    return heads_before_tokens(y, layout)


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
    y = empty_result(query, "bhsd")
    if not key.shape[2]:
        return y.zero_()
    fp8, group = value_dtype == "fp8", query.shape[1] // key.shape[1]
    parts = quantize_attention_reference(query, key, value, key_lengths, scale, smooth_key, fp8)
    of_key = (parts.key, parts.key_scale, parts.value)
    keys, key_scale, values = (x.repeat_interleave(group, 1) for x in of_key)
    outside = ~keys_inside(key.shape[2], key_lengths, key.device).mT
    dtype = torch.float8_e4m3fn if fp8 else multiplied_dtype(value)
    rows = max(1, _MOST_SCORES // max(1, key_scale.numel()))
    for first in range(0, query.shape[2], rows):
        part = slice(first, first + rows)
        score = parts.query[:, :, part] @ keys.mT * (parts.query_scale[:, :, part] * key_scale.mT)
        weight, total = _weights(score.masked_fill(outside, -torch.inf), dtype)
        y[:, :, part] = weight @ values / total
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
    layout: Layout = "bhsd",
    value_dtype: ValueType = "16bit",
) -> Cost:
    """Query, value and y once, key twice; 8-bit copies written and read; 4 B H S T D operations."""
    copied = query.numel() + key.numel() + (value.numel() if value_dtype == "fp8" else 0)
    again = (value,) if value_dtype == "fp8" else ()
    tokens = heads_before_tokens(key, layout).shape[2]
    return Cost(
        size(query, query, key, key, value, *again) + 2 * copied, 4 * query.numel() * tokens
    )


def ahead_of_time() -> Iterator[str]:
    """Launch the kernels at the shapes of real models, for compiling without a GPU; see `ahead`."""
    for name, heads, tokens, dim, dtype in (
        ("FLUX", 24, 4608, 128, torch.bfloat16),
        ("SDXL", 10, 4096, 64, torch.float16),
        ("PixArt", 16, 4096, 72, torch.float16),
        ("Lumina2", 24, 4352, 96, torch.bfloat16),
        ("Wan-14B", 40, 32760, 128, torch.bfloat16),
    ):
        x = torch.empty(1, tokens, heads, dim, dtype=dtype, device="meta").transpose(1, 2)
        for value_dtype in ("16bit", "fp8"):
            _run(x, x, x, None, dim**-0.5, value_dtype, True)
            yield f"{name} {value_dtype}"


_OP = Operator(
    "attention_int8",
    "(Tensor query, Tensor key, Tensor value, Tensor? key_lengths, float scale, str value_dtype, "
    "bool smooth_key) -> Tensor",
    launch=_run,
    reference=attention_int8_reference,
    fake=lambda query, *_: empty_result(query, "bhsd"),
)
