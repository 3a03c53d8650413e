"""The attention kernel's launch, for `attention` and `attention_sparse`."""

from __future__ import annotations

from functools import partial

import torch

from .attention_cuts import MOST_CHANNELS, config, parts_of
from .attention_tiles import attention_kernel
from .language import interpreted, triton
from .operator import Config, UnsupportedError, launch, takes_boxes


def run(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    key_lengths: torch.Tensor | None,
    scale: float,
    lists: tuple[torch.Tensor, torch.Tensor] | None = None,
    block_size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The attention of query, key and value, all (B, H, S, D), as (B, S, H, D), contiguous.

    Mask expands to (B, H, S, T). `lists` are those of `attention_sparse`, for blocks of this size.
    Raises `UnsupportedError` beyond the kernel's limits.
    """
    batches, heads, queries, dim = query.shape
    if dim > MOST_CHANNELS:
        raise UnsupportedError(f"more than {MOST_CHANNELS} channels a head")
    if not scale > 0:
        raise UnsupportedError("a scale that is not above zero")
    out = query.new_empty(batches, queries, heads, dim)
    if out.numel() == 0 or key.shape[2] == 0:
        return out.zero_()
    main, rest = parts_of(dim)
    if key.stride(1) == value.stride(1) == 0:
        key, value = key[:, :1], value[:, :1]
    query, key, value = (_aligned(each) for each in (query, key, value))
    unit = 16 // query.element_size()
    arguments = {
        **_strided("query", query, rest, unit),
        **_strided("key", key, rest, unit),
        **_strided("value", value, rest, unit),
        **_masked(mask, query, key),
        **_listed(lists),
        "key_lengths_ptr": key_lengths,
        "out_ptr": out,
        "heads": heads,
        "group": heads // key.shape[1],
        "queries": queries,
        "keys": key.shape[2],
        "scale": scale,
    }
    constants = {
        "ADDITIVE": mask is not None and mask.dtype.is_floating_point,
        "BY_QUERY": mask is not None and mask.dim() > 1 and mask.shape[-2] > 1,
        "QUERY_BLOCK": block_size and block_size[0],
        "KEY_BLOCK": block_size and block_size[1],
        "DIM": dim,
        "MAIN": main,
        "REST": rest,
        "UNIT": unit,
        # Triton's interpreter would multiply the bits of bf16
        "WIDENED": interpreted() and query.dtype == torch.bfloat16,
    }
    cut = partial(config, query, mask is not None, block_size)

    def grid(cut: Config) -> tuple[int]:
        return (batches * heads * triton.cdiv(queries, cut.blocks["QUERIES"]),)

    launch(attention_kernel, grid, arguments, constants, cut)
    return out


def _aligned(x: torch.Tensor) -> torch.Tensor:
    """x (B, H, S, D) where TMA can load it: else a copy, of which each row begins at 16 bytes.

    Many programs read each row: a pass over memory costs less than their loads of a value each,
    whose addresses would take the registers of 256 channels. What is expanded is copied as well.
    """
    if takes_boxes(x):
        return x
    dim = x.shape[3]
    return x.new_empty(*x.shape[:3], 16 * triton.cdiv(dim, 16))[..., :dim].copy_(x)


def _strided(name: str, x: torch.Tensor, rest: int, unit: int) -> dict[str, object]:
    return {
        name: x,
        f"{name}_rest": x if rest else None,
        f"{name}_batch": x.stride(0) // unit,
        f"{name}_head": x.stride(1) // unit,
        f"{name}_token": x.stride(2) // unit,
    }


def _masked(mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> dict[str, object]:
    """A kernel's arguments for a mask; Triton has bytes for booleans."""
    strides: tuple[int, ...] = (0, 0, 0, 0)
    if mask is not None:
        mask = mask.view(torch.int8) if mask.dtype == torch.bool else mask
        strides = mask.expand(*query.shape[:3], key.shape[2]).stride()
    names = ("mask_batch", "mask_head", "mask_query", "mask_key")
    return {"mask_ptr": mask, **dict(zip(names, strides, strict=True))}


def _listed(lists: tuple[torch.Tensor, torch.Tensor] | None) -> dict[str, object]:
    """A kernel's arguments for lists of blocks (B or 1, H or 1, lists, blocks), contiguous."""
    if lists is None:
        nothing = dict.fromkeys(("blocks_ptr", "counts_ptr"))
        return {**nothing, "lists_batch": 0, "lists_head": 0, "blocks": 0}
    blocks, counts = lists
    batches, heads, lines = counts.shape
    return {
        "blocks_ptr": blocks,
        "counts_ptr": counts,
        "lists_batch": heads * lines if batches > 1 else 0,
        "lists_head": lines if heads > 1 else 0,
        "blocks": blocks.shape[-1],
    }
