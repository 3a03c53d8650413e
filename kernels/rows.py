"""Tokens as rows: what the ops over (B, ..., C) share, in Triton and in plain torch.

A token's channels are held in registers as a whole, several tokens a program where they are short.
Modulations (scale, shift, gate) are (C,), (B, C), or anything that broadcasts to (B, ..., C): a
kernel sees them as (B, S, C) with strides of 0 where they repeat themselves.
"""

from __future__ import annotations

from typing import Literal

import torch

from ..errors import ArgumentError
from .arguments import FLOATS, check_choice, check_device, check_float, check_shape
from .language import tl, triton
from .norm_in_pieces import norm_in_pieces
from .operator import Config, UnsupportedError
from .pieces import in_pieces

Kind = Literal["layer", "rms"]
Quantized = Literal["fp8", "int8"]

MOST_CHANNELS = 16384
"""A token is held in registers as a whole."""
QUANTIZED = {"fp8": (torch.float8_e4m3fn, 448.0), "int8": (torch.int8, 127.0)}
"""The 8-bit types, and the largest value of each."""


@triton.jit
def normalise(x, inside, channels, eps, RMS: tl.constexpr):
    """Rows of x (ROWS, CHANNELS) in fp32, normalised; zero outside."""
    if RMS:
        centred = x
    else:
        mean = tl.sum(x, axis=1) / channels
        centred = tl.where(inside, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / channels
    return centred * tl.rsqrt(variance + eps)[:, None]


@triton.jit
def load_rows(ptr, batch, token, batch_stride, token_stride, channel, inside):
    """A tile (ROWS, CHANNELS) in fp32 of a tensor (B, S, C) whose channels are contiguous."""
    row = batch * batch_stride + token * token_stride
    return tl.load(ptr + row[:, None] + channel[None, :], inside, 0.0).to(tl.float32)


@triton.jit
def affine(y, weight_ptr, bias_ptr, channel, channels):
    """y * weight + bias, by channel; what is None is left out."""
    within = channel < channels
    if weight_ptr is not None:
        y = y * tl.load(weight_ptr + channel, within, 0.0).to(tl.float32)[None, :]
    if bias_ptr is not None:
        y = y + tl.load(bias_ptr + channel, within, 0.0).to(tl.float32)[None, :]
    return y


@triton.jit
def store_rows(
    y_ptr, row_scale_ptr, y, row, rows, channel, channels, inside, LARGEST: tl.constexpr
):
    """Write rows of y, contiguous; quantized by each row's largest value where LARGEST is not 0."""
    if LARGEST > 0:
        largest = tl.max(tl.abs(tl.where(inside, y, 0.0)), axis=1)
        row_scale = tl.maximum(largest, 1e-12) / LARGEST
        tl.store(row_scale_ptr + row, row_scale, row < rows)
        y = y / row_scale[:, None]
        if LARGEST == 127:
            y = tl.floor(y + 0.5)
        y = tl.minimum(tl.maximum(y, -LARGEST), LARGEST)
    offset = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), inside)


def row_config(channels: int) -> Config:
    """About 4,096 elements a program, 16 a thread: two 16-byte loads in 16 bit."""
    width = max(16, triton.next_power_of_2(channels))
    rows = max(1, 2048 // width)
    return Config({"ROWS": rows, "CHANNELS": width}, warps=min(16, max(2, rows * width // 512)))


def tile_config(channels: int) -> Config:
    """2,048 values a program, 16 a thread: two 16-byte loads of each stream in 16 bit.

    For ops without sums over a row. A tile is as wide as a power of two that divides the channels,
    so that no thread idles, but 256 at least.
    """
    dividing = min(1024, max(256, channels & -channels))
    width = max(16, min(dividing, triton.next_power_of_2(channels)))
    return Config({"ROWS": 2048 // width, "CHANNELS": width}, warps=4)


def tokens_of(x: torch.Tensor) -> torch.Tensor:
    """x (B, ..., C) as (B, S, C), rows contiguous in themselves; copied only where it must be."""
    seen = x if x.dim() == 3 else x.reshape(x.shape[0], -1, x.shape[-1])
    return seen if seen.stride(-1) == 1 or seen.shape[-1] == 1 else seen.contiguous()


def modulation_of(name: str, value: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """A modulation of x (B, ..., C) as (B, S, C), with strides of 0 where it repeats itself.

    Raises `ArgumentError` for one that doesn't broadcast to x.
    """
    if value is None:
        return None
    if value.dim() == 2 and x.dim() > 2:
        check_shape((x.shape[0], x.shape[-1]), **{name: value})
        value = value.unflatten(0, (x.shape[0], *[1] * (x.dim() - 2)))
    try:
        wide = value.expand(x.shape)
    except RuntimeError:
        check_shape(x.shape, **{name: value})
        raise
    return tokens_of(wide)


def strided(name: str, value: torch.Tensor | None) -> dict[str, object]:
    """A kernel's three arguments for a tensor (B, S, C), or for none."""
    batch, token = (0, 0) if value is None else value.stride()[:2]
    return {f"{name}_ptr": value, f"{name}_batch": batch, f"{name}_token": token}


def outputs(
    x: torch.Tensor, quantized: str | None
) -> tuple[torch.Tensor, torch.Tensor | None, float]:
    """Room for y, for the scale of each token where y is quantized, and the largest value or 0.

    Raises `Unsupported` beyond the kernel's limits.
    """
    if x.shape[-1] > MOST_CHANNELS:
        raise UnsupportedError(f"more than {MOST_CHANNELS} channels")
    if not quantized:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device), None, 0.0
    dtype, largest = QUANTIZED[quantized]
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    return y, x.new_empty(x.shape[:-1], dtype=torch.float32), largest


def check_norm(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    kind: str,
) -> None:
    """Raise `ArgumentError` for a norm's arguments that don't go together."""
    check_choice("kind", kind, ("layer", "rms"))
    check_float(hidden_states=x, scale=scale, shift=shift, weight=weight, bias=bias)
    check_device(hidden_states=x, scale=scale, shift=shift, weight=weight, bias=bias)
    if x.dim() < 2 or x.shape[-1] == 0:
        raise ArgumentError(f"hidden_states is (B, ..., C) with C above 0, not {list(x.shape)}")
    check_shape((x.shape[-1],), weight=weight, bias=bias)
    modulation_of("scale", scale, x)
    modulation_of("shift", shift, x)


def norm_reference(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    kind: str,
    eps: float,
    scale_offset: float = 1.0,
) -> torch.Tensor:
    """The norm, modulated, in plain torch and x's dtype: one pass for the norm, one to modulate.

    On a CPU `norm_in_pieces` takes one, in fp32.
    """
    if in_pieces(x) and x.dtype in FLOATS:
        scale, shift = (None if each is None else like(each, x) for each in (scale, shift))
        return norm_in_pieces(x, scale, shift, weight, bias, kind, eps, scale_offset)
    function = torch.nn.functional.layer_norm if kind == "layer" else torch.nn.functional.rms_norm
    y = function(x, x.shape[-1:], eps=eps)
    if weight is not None or bias is not None:
        y = _scaled(y, weight, bias)
    if scale is None and shift is None:
        return y
    factor = None if scale is None else scale_offset + like(scale, x)
    return _scaled(y, factor, None if shift is None else like(shift, x))


def _scaled(
    y: torch.Tensor, factor: torch.Tensor | None, summand: torch.Tensor | None
) -> torch.Tensor:
    """y * factor + summand in y's dtype."""
    if factor is None:
        assert summand is not None
        return y + summand.to(y.dtype)
    factor = factor.to(y.dtype)
    return y * factor if summand is None else torch.addcmul(summand.to(y.dtype), y, factor)


def like(modulation: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(B, C) with ones in between, so that it broadcasts to x (B, ..., C)."""
    if modulation.dim() != 2 or x.dim() == 2:
        return modulation
    return modulation.unflatten(0, (modulation.shape[0], *[1] * (x.dim() - 2)))


def quantize_rows(y: torch.Tensor, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """y (..., C) in 8 bit, and the fp32 scale of each row (...)."""
    kind, largest = QUANTIZED[dtype]
    row_scale = y.abs().amax(-1).clamp_min(1e-12) / largest
    scaled = y / row_scale[..., None]
    if dtype == "int8":
        scaled = (scaled + 0.5).floor()
    return scaled.clamp(-largest, largest).to(kind), row_scale
