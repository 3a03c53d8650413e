"""Query, key and value as the attention ops take them: their layouts, and what goes together.

Layouts: "bhsd" is query (B, H, S, D), key and value (B, Hk, T, D), as torch's attention has them;
"bshd" is query (B, S, H, D), key and value (B, T, Hk, D), as diffusers' projections give them.
"""

from __future__ import annotations

from typing import Literal

import torch

from ..errors import ArgumentError
from .arguments import check_device, check_float, check_shape

Layout = Literal["bhsd", "bshd"]


def heads_before_tokens(x: torch.Tensor, layout: str) -> torch.Tensor:
    """A view of x as (B, H, S, D); the same again gives the layout back."""
    return x if layout == "bhsd" else x.transpose(1, 2)


def empty_result(query: torch.Tensor, layout: str) -> torch.Tensor:
    """A result for query: in its shape, and in memory (B, S, H, D) for both layouts."""
    if layout == "bshd":
        return query.new_empty(query.shape)
    return query.new_empty(query.transpose(1, 2).shape).transpose(1, 2)


def check_tensors(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: str) -> None:
    """Raise `ArgumentError` for query, key and value that don't go together in a layout."""
    check_float(query=query, key=key, value=value)
    check_device(query=query, key=key, value=value)
    check_shape((-1, -1, -1, -1), query=query)
    for name, x in (("key", key), ("value", value)):
        if x.dtype != query.dtype:
            raise ArgumentError(f"{name} is {x.dtype} and query {query.dtype}: give one dtype")
    check_shape((query.shape[0], -1, -1, query.shape[-1]), key=key)
    check_shape(key.shape, value=value)
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.shape[-1] == 0 or (x.shape[-1] > 1 and x.stride(-1) != 1):
            raise ArgumentError(f"{name}'s channels lie side by side, and are more than none")
    heads, kept = (heads_before_tokens(each, layout).shape[1] for each in (query, key))
    if heads != kept and (kept == 0 or heads % kept):
        raise ArgumentError(f"key's heads divide query's {heads}; {kept} do not")


def check_lengths(query: torch.Tensor, key_lengths: torch.Tensor | None) -> None:
    """Raise `ArgumentError` for lengths that aren't one int32 for each sample, beside query."""
    if key_lengths is None:
        return
    if key_lengths.dtype != torch.int32:
        raise ArgumentError(f"key_lengths is int32, not {key_lengths.dtype}")
    check_device(query=query, key_lengths=key_lengths)
    check_shape(query.shape[:1], key_lengths=key_lengths)
