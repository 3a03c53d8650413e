"""How the attention kernel is cut: a head's parts, and the tiles, warps and stages of each chip.

What is written here compiles without spills, by the table of `ahead`, and with Triton 3.5 too where
`_EARLY_TRITON` says so. Nothing of it was chosen by measuring.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from packaging.version import Version

from .language import triton
from .operator import Config, UnsupportedError

_T = TypeVar("_T")

_EARLY_TRITON = Version(getattr(triton, "__version__", "3.6")) < Version("3.6")
"""Triton 3.5 spills what TMA loads on sm_120, and in fp32 anywhere; cut as sm_80, it doesn't."""

MOST_CHANNELS = 256
"""Channels of a head: twice as many would leave no registers for the sums."""
_FEWEST_PROGRAMS = 108
"""An A100's SMs, which are less than an H100's 132 or a B200's 148."""


def parts_of(dim: int) -> tuple[int, int]:
    """A head's MAIN and REST channels: powers of two from 16 on, or one that holds all and 0."""
    main = max(16, 1 << (dim.bit_length() - 1))
    rest = 0 if dim <= main else max(16, triton.next_power_of_2(dim - main))
    return (main, rest) if rest < main else (2 * main, 0)


@dataclass(frozen=True)
class _Cut:
    """Queries and keys of a tile, warps, stages; whether TMA loads; whether warps specialise."""

    queries: int
    keys: int
    warps: int
    stages: int
    boxes: bool = False
    specialised: bool = False


_CUTS = {
    "sm_80": {
        64: _Cut(128, 64, 8, 3),
        128: _Cut(128, 32, 8, 3),
        160: _Cut(128, 16, 8, 2),
        192: _Cut(64, 32, 4, 1),
        256: _Cut(64, 32, 8, 1),
    },
    "sm_90": {
        128: _Cut(128, 128, 8, 2, boxes=True),
        256: _Cut(128, 64, 8, 2, boxes=True),
    },
    "sm_100": {
        64: _Cut(128, 128, 8, 2, boxes=True),
        128: _Cut(128, 64, 8, 3, boxes=True),
        256: _Cut(128, 64, 8, 2, boxes=True),
    },
    # As queries come through TMA and shared memory, 256 channels spill: they are loaded by threads.
    "sm_120": {
        64: _Cut(128, 64, 8, 3, boxes=True),
        128: _Cut(128, 64, 8, 2, boxes=True),
        160: _Cut(128, 32, 8, 2, boxes=True),
        256: _Cut(64, 16, 4, 1),
    },
    "gfx942": {
        48: _Cut(128, 32, 4, 2),
        64: _Cut(128, 64, 4, 2),
        160: _Cut(128, 32, 4, 2),
        256: _Cut(64, 32, 4, 2),
    },
}
"""By chip and by the most channels, MAIN and REST together, of a head in 16 bit."""

_CUTS_FP32 = {
    "sm_80": {64: _Cut(64, 16, 8, 2)},
    "sm_90": {64: _Cut(64, 32, 4, 2, boxes=True), 96: _Cut(128, 16, 8, 1)},
    "sm_100": {64: _Cut(64, 32, 4, 2, boxes=True)},
    "sm_120": {64: _Cut(64, 16, 8, 2)},
    "gfx942": {256: _Cut(64, 32, 4, 2)},
}
"""The same in fp32, of which NVIDIA's chips hold the TF32 parts: heads of more channels spill.

On sm_90 128 channels spill beside a mask by query, on sm_100 80 do with Triton 3.5. With 32
queries, which leave half of a tile's product unused, 80 and 128 channels fit on sm_80 too; nothing
tells that they are faster so than torch, whose fp32 units do a third of the products.
"""

_KEYS_BESIDE_A_MASK = {
    "sm_80": {160: 64, 192: 16, 256: 64},
    "sm_90": {192: 64, 256: 32},
    "sm_100": {192: 64, 256: 32},
    "sm_120": {128: 32, 256: 16},
    "gfx942": {256: 32},
}
"""The most keys of a tile beside a tile of a mask, which takes as many registers as its logits."""

_SPECIALISED = {
    64: _Cut(128, 128, 4, 2, boxes=True, specialised=True),
    128: _Cut(128, 128, 8, 2, boxes=True, specialised=True),
}
"""For sm_100, heads that are one part, without masks or lists: what Triton's own tests specialise.
With 256 channels the specialised warps spill; other chips' warps Triton doesn't specialise."""


def config(
    query: torch.Tensor,
    masked: bool,
    block_size: tuple[int, int] | None,
    chip: str,
) -> Config:
    """How the kernel is cut for query (B, H, S, D) on a chip; TMA can load query, key and value.

    Raises `UnsupportedError` for heads that the chip's registers can't hold.
    """
    main, rest = parts_of(query.shape[-1])
    simple = not masked and not rest and block_size is None and query.element_size() == 2
    if simple and family_of(chip) == "sm_100" and main in _SPECIALISED:
        cut = _SPECIALISED[main]
    else:
        cut = _cut(chip, main + rest, query.dtype)
    cut = _fitted(cut, query, masked, block_size, chip)
    blocks = {
        "QUERIES": cut.queries,
        "KEYS": cut.keys,
        "TMA": int(cut.boxes),
        "SPECIALISED": int(cut.specialised),
        "TENSOR_FLOAT": int(chip.startswith("sm_")),
    }
    return Config(blocks, cut.warps, cut.stages, _boxes(main, rest, cut) if cut.boxes else {})


def family_of(chip: str, dtype: torch.dtype | None = None) -> str:
    """The chip of the table by which a chip's tiles are cut; sm_80 for what isn't known."""
    if chip.startswith("gfx"):
        return "gfx942"
    chip = {"sm_103": "sm_100", "sm_121": "sm_120"}.get(chip, chip)
    if _EARLY_TRITON and (chip == "sm_120" or dtype == torch.float32):
        return "sm_80"
    return chip if chip in _CUTS else "sm_80"


def _cut(chip: str, width: int, dtype: torch.dtype) -> _Cut:
    table = (_CUTS_FP32 if dtype == torch.float32 else _CUTS)[family_of(chip, dtype)]
    most = max(table)
    # Triton's interpreter, which has no chip, has no registers to run out of.
    if width > most and chip:
        raise UnsupportedError(f"more than {most} channels a head in fp32 on {chip}")
    return _up_to(min(width, most), table)


def _up_to(width: int, table: Mapping[int, _T]) -> _T:
    """What stands in a table for the least number of channels that is enough."""
    return next(each for most, each in table.items() if width <= most)


def _fitted(
    cut: _Cut,
    query: torch.Tensor,
    masked: bool,
    block_size: tuple[int, int] | None,
    chip: str,
) -> _Cut:
    """A cut with half the queries where there are few, fewer keys beside a mask, within blocks."""
    batches, heads, queries, _ = query.shape
    family, parts = family_of(chip), parts_of(query.shape[-1])
    few = batches * heads * math.ceil(queries / cut.queries) < _FEWEST_PROGRAMS
    if family == "sm_120" and query.shape[-1] > 128:
        # 64 queries, loaded by threads as they must be then, spill
        few = False
    if _EARLY_TRITON and masked and chip in ("sm_120", "sm_121") and sum(parts) == 192:
        # with 4 warps they spill there
        cut = replace(cut, warps=8)
    rows, columns = (128, 128) if block_size is None else (size & -size for size in block_size)
    rows = min(cut.queries, rows, 64 if few and not cut.specialised else 128)
    cut = replace(cut, queries=rows, warps=max(1, cut.warps * rows // cut.queries))
    if family == "sm_120":
        # with half the warps, queries that come through TMA spill
        cut = replace(cut, boxes=cut.boxes and rows == 128)
    if not cut.boxes and family in ("sm_90", "sm_100", "sm_120"):
        # the addresses that threads load from take registers too
        columns = min(columns, 32)
    elif masked:
        columns = min(columns, _up_to(sum(parts), _KEYS_BESIDE_A_MASK[family]))
    elif block_size is not None and (family == "sm_120" or _EARLY_TRITON):
        columns = min(columns, 32)
    return replace(cut, keys=min(cut.keys, columns))


def _boxes(main: int, rest: int, cut: _Cut) -> Mapping[str, tuple[int, ...]]:
    """The TMA boxes of the kernel's tensors by name."""
    found = {}
    for name, tokens in (("query", cut.queries), ("key", cut.keys), ("value", cut.keys)):
        found[name] = (1, 1, tokens, main)
        if rest:
            found[f"{name}_rest"] = (1, 1, tokens, rest)
    return found
