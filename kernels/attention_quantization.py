"""Query and key in int8, key without its mean, and where asked for value in fp8: for attention.

    query * scale * log2(e)     int8, a scale for each token
    key - mean(key)             int8, a scale for each 128 tokens; the mean is over tokens, for each
                                head and channel: softmax takes no notice of it, and it often is
                                most of what key holds
    value                       fp8 e4m3, a scale for each channel

Shapes: query (B, H, S, D), key and value (B, Hk, T, D), with any strides as long as channels lie
side by side. What is written lies as the matrix products want it, tokens padded to whole blocks and
channels to what a product takes at once, with zeros: query (B, H, S', D'), key (B, Hk, T', D'), and
value (B, Hk, D", T'), since fp8 products read it token by token.

Why so: a scale for each query costs attention nothing, since it is one factor for a row of scores.
A scale for each key would cost a multiplication for each score, and registers for a block's scales.

Memory: query is read once; key twice, as its mean comes first; value twice where it is to be fp8,
the first time together with key. 1 byte an element is written.

What isn't a finite number makes the scale NaN, and so the scores that it belongs to.

Source: Zhang et al., "SageAttention" (2024), for the smoothing; "SageAttention2" (2024), for finer
scales and for value by channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .attention_quantization_tiles import (
    quantize_fp8_kernel,
    quantize_int8_kernel,
    statistics_kernel,
)
from .language import triton
from .operator import Config, launch
from .rotary import unit_of

BLOCK = 128
"""Keys that share a scale; query and key are padded to a multiple of it."""
LARGEST_FP8 = 448.0
LOG2_E = 1.4426950408889634

_MOST_SPLITS = 16
"""Parts of the tokens whose statistics are taken apart; each block of key sums them up again."""


@dataclass(frozen=True)
class QuantizedAttention:
    """What attention reads: query_scale (B, H, S'), key_scale (B, Hk, T' / 128).

    Where value stays in 16 bit, it is (B, Hk, T, D) as given, and value_scale (B, Hk, D") is None.
    """

    query: torch.Tensor
    query_scale: torch.Tensor
    key: torch.Tensor
    key_scale: torch.Tensor
    value: torch.Tensor
    value_scale: torch.Tensor | None


def widths(dim: int, smallest: int) -> tuple[int, int]:
    """D as a power of two, or as the sum of two: 72 is 64 + 16; none is below `smallest`."""
    whole = max(smallest, triton.next_power_of_2(dim))
    tail = max(smallest, triton.next_power_of_2(max(1, dim - whole // 2)))
    return (whole, 0) if whole // 2 + tail >= whole else (whole // 2, tail)


def quantize_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_lengths: torch.Tensor | None,
    scale: float,
    smooth_key: bool,
    fp8: bool,
) -> QuantizedAttention:
    """Launch the kernels. Value stays in 16 bit unless fp8; fp32 becomes bf16."""
    sums, largest = _statistics(key, value, key_lengths, smooth_key, fp8)
    query_int8, query_scale = _int8(query, None, None, scale * LOG2_E, by_token=True)
    key_int8, key_scale = _int8(key, key_lengths, sums, 1.0, by_token=False)
    value_scale = None
    if largest is None:
        value = value.to(multiplied_dtype(value))
    else:
        value, value_scale = _fp8(value, key_lengths, largest)
    return QuantizedAttention(query_int8, query_scale, key_int8, key_scale, value, value_scale)


def _statistics(
    key: torch.Tensor,
    value: torch.Tensor,
    key_lengths: torch.Tensor | None,
    smooth_key: bool,
    fp8: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Key's sums and value's largest magnitudes, (B, Hk, splits, D) each; None if not asked for."""
    if not (smooth_key or fp8):
        return None, None
    batches, heads, tokens, dim = key.shape
    splits = min(_MOST_SPLITS, max(1, triton.cdiv(tokens, 4 * BLOCK)))
    shape = (batches, heads, splits, dim)
    sums = key.new_empty(shape, dtype=torch.float32) if smooth_key else None
    largest = key.new_empty(shape, dtype=torch.float32) if fp8 else None
    unit = _unit(key, value)
    arguments = {
        **_strided("key", key, unit),
        **_strided("value", value, unit),
        "lengths_ptr": key_lengths,
        "sum_ptr": sums,
        "largest_ptr": largest,
        "tokens": tokens,
        "heads": heads,
        "chunk": triton.cdiv(tokens, splits),
        "splits": splits,
    }
    launch(
        statistics_kernel,
        (batches * heads * splits,),
        arguments,
        {"UNIT": unit, "DIM": dim},
        _config(dim),
    )
    return sums, largest


def _int8(
    x: torch.Tensor,
    key_lengths: torch.Tensor | None,
    sums: torch.Tensor | None,
    factor: float,
    by_token: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x in int8 and its scales."""
    batches, heads, tokens, dim = x.shape
    depth, blocks = sum(widths(dim, 32)), triton.cdiv(tokens, BLOCK)
    y = x.new_empty((batches, heads, blocks * BLOCK, depth), dtype=torch.int8)
    scales = blocks * BLOCK if by_token else blocks
    scale = x.new_empty((batches, heads, scales), dtype=torch.float32)
    arguments = {
        "lengths_ptr": key_lengths,
        "sum_ptr": sums,
        "y_ptr": y,
        "scale_ptr": scale,
        "factor": factor,
    }
    _launch_by_blocks(quantize_int8_kernel, x, depth, sums, arguments, {"BY_TOKEN": by_token})
    return y, scale


def _fp8(
    x: torch.Tensor, key_lengths: torch.Tensor | None, largest: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """x in fp8, (B, Hk, D", T'), and the scale of each channel."""
    batches, heads, tokens, dim = x.shape
    depth, blocks = sum(widths(dim, 16)), triton.cdiv(tokens, BLOCK)
    y = x.new_empty((batches, heads, depth, blocks * BLOCK), dtype=torch.float8_e4m3fn)
    scale = x.new_empty((batches, heads, depth), dtype=torch.float32)
    arguments = {"lengths_ptr": key_lengths, "largest_ptr": largest, "y_ptr": y, "scale_ptr": scale}
    _launch_by_blocks(quantize_fp8_kernel, x, depth, largest, arguments, {})
    return y, scale


def _launch_by_blocks(
    kernel: Any,
    x: torch.Tensor,
    depth: int,
    statistics: torch.Tensor | None,
    arguments: Mapping[str, object],
    constants: Mapping[str, object],
) -> None:
    """Launch a kernel of which a program quantizes a block of one head of x, to `depth` channels.

    `statistics` (B, H, splits, D) are those of the whole head that it reads, if any.
    """
    batches, heads, tokens, dim = x.shape
    blocks, unit = triton.cdiv(tokens, BLOCK), _unit(x)
    shared = {
        **_strided("x", x, unit),
        "tokens": tokens,
        "heads": heads,
        "blocks": blocks,
        "splits": 0 if statistics is None else statistics.shape[2],
    }
    cut = {"UNIT": unit, "DIM": dim, "DEPTH": depth, "SPLITS": _MOST_SPLITS}
    grid = (batches * heads * blocks,)
    launch(kernel, grid, {**shared, **arguments}, {**cut, **constants}, _config(depth))


def _strided(name: str, x: torch.Tensor, unit: int) -> dict[str, object]:
    """A kernel's arguments for a tensor (B, H, S, D)."""
    batch, head, token = (stride // unit for stride in x.stride()[:3])
    return {f"{name}_ptr": x, f"{name}_batch": batch, f"{name}_token": token, f"{name}_head": head}


def _unit(*tensors: torch.Tensor) -> int:
    return unit_of(8, *(stride for x in tensors for stride in x.stride()[:3]))


def _config(channels: int) -> Config:
    """A block of tokens a program, 64 values a thread."""
    width = triton.next_power_of_2(max(16, channels))
    return Config({"TOKENS": BLOCK, "WIDTH": width}, warps=max(1, BLOCK * width // 2048))


def quantize_attention_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_lengths: torch.Tensor | None,
    scale: float,
    smooth_key: bool,
    fp8: bool,
) -> QuantizedAttention:
    """The same in plain torch: nothing padded, whole numbers in fp32; T is not 0.

    query (B, H, S, D), query_scale (B, H, S, 1), key (B, Hk, T, D), key_scale (B, Hk, T, 1), and
    value (B, Hk, T, D), rounded as it would be and in fp32.
    """
    value = value if fp8 else value.to(multiplied_dtype(value))
    query, key, value = (x.float() for x in (query, key, value))
    inside = keys_inside(key.shape[2], key_lengths, key.device)
    key, value = torch.where(inside, key, 0.0), torch.where(inside, value, 0.0)
    if smooth_key:
        counted = inside.sum(2, keepdim=True).clamp_min(1)
        key = torch.where(inside, key - key.sum(2, keepdim=True) / counted, 0.0)
    query = query * (scale * LOG2_E)
    query_scale = _scale(query.abs().amax(-1, keepdim=True), 127.0)
    key_scale = _scale(_by_blocks(key.abs().amax(-1, keepdim=True)), 127.0)
    if fp8:
        value_scale = _scale(value.abs().amax(2, keepdim=True), LARGEST_FP8)
        value = (value / value_scale).to(torch.float8_e4m3fn).float() * value_scale
    query, key = (query / query_scale + 0.5).floor(), (key / key_scale + 0.5).floor()
    return QuantizedAttention(query, query_scale, key, key_scale, value, None)


def multiplied_dtype(value: torch.Tensor) -> torch.dtype:
    """The 16-bit type in which value is multiplied: bf16 for fp32, which fp16 has no room for."""
    return torch.bfloat16 if value.dtype == torch.float32 else value.dtype


def keys_inside(
    tokens: int, key_lengths: torch.Tensor | None, device: torch.device
) -> torch.Tensor:
    """Which keys take part, (B or 1, 1, T, 1)."""
    token = torch.arange(tokens, device=device)[:, None]
    if key_lengths is None:
        return (token >= 0)[None, None]
    return token < key_lengths[:, None, None, None]


def _scale(largest: torch.Tensor, limit: float) -> torch.Tensor:
    return largest.clamp_min(1e-12) / limit


def _by_blocks(x: torch.Tensor) -> torch.Tensor:
    """The largest of each block of tokens (B, Hk, T, 1), for each of them."""
    tokens = x.shape[2]
    padded = torch.nn.functional.pad(x, (0, 0, 0, -tokens % BLOCK))
    blocks = padded.unflatten(2, (-1, BLOCK))
    return blocks.amax(3, keepdim=True).expand_as(blocks).flatten(2, 3)[:, :, :tokens]
