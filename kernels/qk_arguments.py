"""What the op on query and key accepts, checked before anything is written."""

from __future__ import annotations

import torch

from ..errors import ArgumentError
from .arguments import check_choice, check_device, check_float, check_shape


def check_heads(query: torch.Tensor, key: torch.Tensor) -> None:
    """Raise `ArgumentError` for query (B, S, H, D) and key that can't be written in place."""
    check_float(query=query, key=key)
    check_device(query=query, key=key)
    if key.dtype != query.dtype:
        raise ArgumentError(f"key is {key.dtype} and query {query.dtype}: give both in one dtype")
    check_shape((-1, -1, -1, -1), query=query)
    check_shape((query.shape[0], -1, -1, query.shape[-1]), key=key)
    for name, x in (("query", query), ("key", key)):
        if x.shape[-1] == 0 or (x.shape[-1] > 1 and x.stride(-1) != 1):
            raise ArgumentError(f"{name}'s channels lie side by side, and are more than none")
        if any(
            not stride and length > 1 for stride, length in zip(x.stride(), x.shape, strict=True)
        ):
            raise ArgumentError(f"{name} is written in place, and can't be an expanded tensor")


def check_head_norm(
    query: torch.Tensor,
    key: torch.Tensor,
    weights: tuple[torch.Tensor | None, ...],
    norm: str | None,
    across_heads: bool,
) -> None:
    """Raise `ArgumentError` for weights and biases that don't go with the norm."""
    check_choice("norm", norm, ("rms", "layer", None))
    for name, x, weight, bias in (
        ("query", query, weights[0], weights[2]),
        ("key", key, weights[1], weights[3]),
    ):
        given = {f"{name}_weight": weight, f"{name}_bias": bias}
        check_float(**given)
        check_device(query=query, **given)
        check_shape((x.shape[-1] * (x.shape[2] if across_heads else 1),), **given)
    for kind, place in (("weight", 0), ("bias", 2)):
        one, other = weights[place], weights[place + 1]
        if getattr(one, "dtype", None) != getattr(other, "dtype", None):
            raise ArgumentError(f"query_{kind} and key_{kind} go together, and in one dtype")
        if norm is None and one is not None:
            raise ArgumentError(f"a {kind} needs a norm: give norm='rms' or norm='layer'")
