"""A routed attention as one operator of torch, so that a compiled graph holds it as one node.

Which way is taken is decided when the operator runs, by the shape it gets: the graph serves every
size, and captured into a CUDA graph it replays what was known when it was captured.
"""

from __future__ import annotations

import functools
import uuid
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

import torch

_LIBRARY = torch.library.Library("sdaccel", "FRAGMENT")
_NAME = "routed_attention"
_SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor? mask, bool causal, float? scale, str router)"
    " -> Tensor"
)


class Chooses(Protocol):
    """What the operator asks: who computes (query, key, value, mask, causal, scale)."""

    def compute(self, *arguments: Any) -> torch.Tensor:
        """The attention (B, H, S, Dv), by the way chosen for it."""


def enrol(router: Chooses) -> str:
    """A name under which the operator finds a router for as long as that exists.

    A string, since Dynamo makes a number that differs between two pipes a variable of the graph.
    """
    name = uuid.uuid4().hex
    _routers()[name] = router
    return name


@functools.cache
def _routers() -> MutableMapping[str, Chooses]:
    return weakref.WeakValueDictionary()


def stock(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """torch's own attention, by the backend that torch picks."""
    attention: Callable[..., torch.Tensor] = torch.nn.functional.scaled_dot_product_attention
    grouped = query.shape[1] != key.shape[1]
    return attention(query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=grouped)


def _compute(*arguments: Any) -> torch.Tensor:
    router = _routers().get(arguments[-1])
    compute = router.compute if router is not None else stock
    found = compute(*arguments[:-1])
    return found.transpose(1, 2).contiguous().transpose(1, 2)


def _fake(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    batch, heads, queries, _width = query.shape
    return query.new_empty(batch, queries, heads, value.shape[3]).transpose(1, 2)


_LIBRARY.define(_NAME + _SCHEMA)
_LIBRARY.impl(_NAME, _compute, "CompositeExplicitAutograd")
torch.library.register_fake(f"sdaccel::{_NAME}", _fake, lib=_LIBRARY)
routed_attention = getattr(torch.ops.sdaccel, _NAME).default
