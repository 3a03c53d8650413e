"""Query, key and value as the attention ops take them: their layouts, and what goes together.

Layouts: "bhsd" is query (B, H, S, D), key and value (B, Hk, T, D), as torch's SDPA has them;
"bshd" is query (B, S, H, D), key and value (B, T, Hk, D), as diffusers' projections give them.
"""

from __future__ import annotations

from typing import Literal

import torch

from ..errors import ArgumentError
from .arguments import check_choice, check_device, check_float, check_shape

AttentionLayout = Literal["bhsd", "bshd"]


def check_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: str
) -> None:
    """Raise `ArgumentError` for query, key and value that don't go together in a layout."""
    check_choice("layout", layout, ("bhsd", "bshd"))
    given = {"query": query, "key": key, "value": value}
    check_float(**given)
    check_device(**given)
    for name, x in given.items():
        if x.dtype != query.dtype:
            raise ArgumentError(f"{name} is {x.dtype} and query {query.dtype}: give all in one")
        check_shape((-1, -1, -1, -1), **{name: x})
        if x.shape[-1] == 0 or (x.shape[-1] > 1 and x.stride(-1) != 1):
            raise ArgumentError(f"{name}'s channels lie side by side, and are more than none")
    batch, dim = query.shape[0], query.shape[-1]
    check_shape((batch, -1, -1, dim), key=key)
    check_shape(key.shape, value=value)
    heads, key_heads = (x.shape[1 if layout == "bhsd" else 2] for x in (query, key))
    if not key_heads or heads % key_heads:
        raise ArgumentError(f"query's {heads} heads are no multiple of key's {key_heads}")


def check_key_lengths(key_lengths: torch.Tensor | None, query: torch.Tensor) -> None:
    """Raise `ArgumentError` for lengths that aren't one int32 for each sample, beside query."""
    if key_lengths is None:
        return
    check_shape((query.shape[0],), key_lengths=key_lengths)
    check_device(query=query, key_lengths=key_lengths)
    if key_lengths.dtype != torch.int32:
        raise ArgumentError(f"key_lengths is int32, not {key_lengths.dtype}")


def tokens_first(x: torch.Tensor, layout: str) -> torch.Tensor:
    """A view as (B, S, H, D); the same again gives the layout back."""
    return x.transpose(1, 2) if layout == "bhsd" else x
