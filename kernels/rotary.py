"""Rotary position embedding: pairs of channels, and the tables of cos and sin in all their forms.

    first  = first * cos - second * sin         for each pair of channels
    second = second * cos + first * sin

Pairs are channels (2i, 2i + 1) in the layout "interleaved" (FLUX, Wan, LTX, HunyuanVideo; complex
numbers in Qwen-Image, Z-Image, Lumina2) and (i, i + D/2) in the layout "half" (Cosmos, CogView4).
The tables have the value of each pair once, (S, D/2), or twice, (S, D) in the order of the layout.
In the layout "half_each" (ErnieImage) pairs are as in "half", but each channel has a value of its
own, (S, D): first by that of i, second by that of i + D/2, which is no rotation but what was
trained.
In front of S there may be a batch, and behind it heads, each 1 where all share it: (B, S, D),
(1, S, 1, D), (B, S, H, D); heads may also lie flat, (B, S, H * D). D is what is rotated of a head.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from ..errors import ArgumentError
from .arguments import check_choice, check_device, check_float, check_shape
from .language import tl, triton

Layout = Literal["interleaved", "half", "half_each"]
_LAYOUTS = get_args(Layout)


@triton.jit
def load_pairs(
    ptr,
    row,
    inside,
    HALF: tl.constexpr,
    DIM: tl.constexpr,
    TURNED: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """The first and the second of each pair, tiles (rows, PAIRS) in fp32; zero outside.

    Interleaved pairs are loaded side by side and split in registers. In halves the second ones go
    on to DIM, beyond what is TURNED.
    """
    if HALF:
        pair = tl.arange(0, PAIRS)[None, :]
        first = tl.load(ptr + row + pair, inside & (pair < TURNED // 2), 0.0)
        within = inside & (pair < DIM - TURNED // 2)
        second = tl.load(ptr + row + (TURNED // 2 + pair), within, 0.0)
    else:
        channel = tl.arange(0, 2 * PAIRS)[None, :]
        x = tl.load(ptr + row + channel, inside & (channel < DIM), 0.0)
        first, second = tl.split(tl.reshape(x, (x.shape[0], PAIRS, 2)))
    return first.to(tl.float32), second.to(tl.float32)


@triton.jit
def store_pairs(
    ptr,
    row,
    inside,
    first,
    second,
    HALF: tl.constexpr,
    DIM: tl.constexpr,
    TURNED: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Write what `load_pairs` reads, rounded."""
    first, second = first.to(ptr.dtype.element_ty), second.to(ptr.dtype.element_ty)
    if HALF:
        pair = tl.arange(0, PAIRS)[None, :]
        tl.store(ptr + row + pair, first, inside & (pair < TURNED // 2))
        within = inside & (pair < DIM - TURNED // 2)
        tl.store(ptr + row + (TURNED // 2 + pair), second, within)
    else:
        channel = tl.arange(0, 2 * PAIRS)[None, :]
        x = tl.reshape(tl.join(first, second), (first.shape[0], 2 * PAIRS))
        tl.store(ptr + row + channel, x, inside & (channel < DIM))


@triton.jit
def turn(
    first,
    second,
    cos_ptr,
    sin_ptr,
    row,
    inside,
    FORM: tl.constexpr,
    TURNED: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Pairs, rotated by rows of tables in a FORM of `read_tables`; beyond TURNED they stay.

    Where a value stands twice both are used: with every other one dropped, loads of 16 bytes fall
    apart into loads of 4.
    """
    turned = tl.arange(0, PAIRS)[None, :] < TURNED // 2
    if FORM == "once":
        pair = tl.arange(0, PAIRS)[None, :]
        cos = tl.load(cos_ptr + row + pair, inside & turned, 0.0).to(tl.float32)
        sin = tl.load(sin_ptr + row + pair, inside & turned, 0.0).to(tl.float32)
        cos_again, sin_again = cos, sin
    elif FORM == "each":
        cos, cos_again = load_pairs(cos_ptr, row, inside, True, TURNED, TURNED, PAIRS)
        sin, sin_again = load_pairs(sin_ptr, row, inside, True, TURNED, TURNED, PAIRS)
    elif FORM == "twice":
        cos, cos_again = load_pairs(cos_ptr, row, inside, False, TURNED, TURNED, PAIRS)
        sin, sin_again = load_pairs(sin_ptr, row, inside, False, TURNED, TURNED, PAIRS)
    else:
        cos, sin = load_pairs(cos_ptr, row, inside, False, TURNED, TURNED, PAIRS)
        cos_again, sin_again = cos, sin
    cos, cos_again = tl.where(turned, cos, 1.0), tl.where(turned, cos_again, 1.0)
    return first * cos - second * sin, second * cos_again + first * sin_again


def tables(freqs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of complex numbers (..., S, D/2) for the layout "interleaved": views, no copy."""
    cos, sin = torch.view_as_real(freqs).unbind(-1)
    return cos, sin


def pairs_of(
    name: str, table: torch.Tensor, query: torch.Tensor, layout: str, rotary_dim: int
) -> torch.Tensor:
    """A table as (B, S, 1 or H, rotary_dim / 2), a view; raises `ArgumentError` if it can't be.

    Its last dimension is rotary_dim where each channel has a value of its own.
    """
    each = layout == "half_each"
    batches, tokens, heads, _ = query.shape
    seen, width = table, table.shape[-1] if table.dim() else 0
    if table.dim() == 3 and heads > 1 and width == heads * rotary_dim:
        seen = table.unflatten(2, (heads, rotary_dim))
    elif table.dim() in (2, 3):
        seen = table.unsqueeze(-2)
    seen = seen[None] if seen.dim() == 3 else seen
    if not each and width in (rotary_dim, heads * rotary_dim):
        seen = seen[..., ::2] if layout == "interleaved" else seen[..., : rotary_dim // 2]
    fits = (
        seen.dim() == 4
        and seen.shape[0] in (1, batches)
        and seen.shape[2] in (1, heads)
        and (seen.shape[1], seen.shape[3]) == (tokens, rotary_dim if each else rotary_dim // 2)
    )
    if not fits:
        once = "" if each else f" or {[tokens, rotary_dim // 2]}"
        raise ArgumentError(
            f"{name} has shape {list(table.shape)}; {[tokens, rotary_dim]}{once} was expected, "
            "with a batch or heads if need be (rotary_dim says how many channels are rotated)"
        )
    return seen.expand(batches, -1, -1, -1)


def read_tables(
    cos: torch.Tensor, sin: torch.Tensor, query: torch.Tensor, layout: str, rotary_dim: int
) -> tuple[str, torch.Tensor, torch.Tensor]:
    """How a kernel reads the tables, and them as `pairs_of` has them.

    "once": each pair's value lies beside the next; "twice": at every other place, the same between;
    "complex": each sin lies behind its cos; "each": those of first, then those of second. Strides
    are the same for both; other tables are copied.
    """
    dense = "each" if layout == "half_each" else "once"
    seen_cos = pairs_of("cos", cos, query, layout, rotary_dim)
    seen_sin = pairs_of("sin", sin, query, layout, rotary_dim)
    if seen_cos.stride() == seen_sin.stride():
        step = seen_cos.stride(-1)
        if step == 1:
            return dense, seen_cos, seen_sin
        if dense == "once" and step == 2 and cos.stride(-1) == sin.stride(-1) == 1:
            return "twice", seen_cos, seen_sin
        if dense == "once" and step == 2 and _are_parts(cos, sin):
            return "complex", seen_cos, seen_sin
    return dense, seen_cos.contiguous(), seen_sin.contiguous()


def _are_parts(cos: torch.Tensor, sin: torch.Tensor) -> bool:
    places = [each.untyped_storage().data_ptr() for each in (cos, sin)]
    return places[0] == places[1] and sin.storage_offset() == cos.storage_offset() + 1


def check_tables(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    layout: str,
    rotary_dim: int,
) -> None:
    """Raise `ArgumentError` for tables that don't go together, or not with query and key."""
    check_choice("layout", layout, _LAYOUTS)
    if cos is None and sin is None:
        return
    if cos is None or sin is None:
        raise ArgumentError("cos and sin go together")
    check_float(cos=cos, sin=sin)
    check_device(query=query, cos=cos, sin=sin)
    if rotary_dim % 2 or not 0 < rotary_dim <= query.shape[-1]:
        raise ArgumentError(
            f"{rotary_dim} of {query.shape[-1]} channels can't be rotated in pairs: "
            "rotary_dim is an even number of them"
        )
    check_shape((-1, query.shape[1], -1, -1), key=key)
    seen = [
        pairs_of(name, each, query, layout, rotary_dim)
        for name, each in (("cos", cos), ("sin", sin))
    ]
    check_shape(seen[0].shape, sin=seen[1])
    if seen[0].shape[2] > 1 and key.shape[2]:
        check_shape((-1, -1, query.shape[2], -1), key=key)


def of_both(table: torch.Tensor, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A table as `pairs_of` has it, for the first and for the second of each pair."""
    if layout != "half_each":
        return table, table
    first, second = table.chunk(2, -1)
    return first, second


def rotated(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: str, rotary_dim: int
) -> torch.Tensor:
    """x (B, S, H, D), its first channels rotated by tables as `pairs_of` has them."""
    dim, shape = (-1, (-1, 2)) if layout == "interleaved" else (-2, (2, -1))
    first, second = x[..., :rotary_dim].unflatten(-1, shape).unbind(dim)
    (cos, cos_again), (sin, sin_again) = (of_both(each, layout) for each in (cos, sin))
    turned = torch.stack((first * cos - second * sin, second * cos_again + first * sin_again), dim)
    return torch.cat((turned.flatten(-2), x[..., rotary_dim:]), -1)


def unit_of(wanted: int, *strides: int) -> int:
    """What all strides are multiples of, 16 bytes in 16 bit or fp32, so that Triton knows it."""
    return 1 if any(each % wanted for each in strides) else wanted
