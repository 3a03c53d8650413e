"""Where a forward that replays recorded ones hangs on a denoiser, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from .graph_parts import Source
from .graphed import Capture, Graphed

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target


def watch_forward(
    component: Component,
    capture: Capture,
    limit: int,
    target: Target,
    patch: Patch,
    record: PassRecord,
) -> None:
    """Let a denoiser's forwards be recorded by `capture`, at most `limit` kinds, and replayed."""
    entry, clock = component.entry, target.clock
    owner, name = _forward_of(entry)
    stock, sources = getattr(owner, name), list(_sources(entry))
    graphed = Graphed(component.name, component.module, stock, capture, sources, limit, record)
    with patch.scope(component.module):
        patch.on_undo(graphed.close)
        patch.set(owner, name, graphed)
        # before those of other passes, which change the model for the length of a forward
        patch.add_handle(entry.register_forward_pre_hook(graphed.arrive, prepend=True))
        for listeners in (clock.listeners, clock.end_listeners):
            patch.on_undo(partial(listeners.remove, graphed.rest))
            listeners.append(graphed.rest)
    record.changed["denoisers watched"] += 1


def foreign_forward(component: Component, model: Any) -> str | None:
    """Whose forward a denoiser has, in half a sentence, where it is neither its own nor ours."""
    import torch

    if isinstance(model, torch._dynamo.OptimizedModule):
        return "compiled by the user: load it uncompiled and let the pass compile do it"
    owner, name = _forward_of(component.entry)
    own = owner.__dict__.get(name)
    is_stock = getattr(own, "__func__", None) is type(component.entry).forward
    if own is not None and not is_stock and not type(own).__module__.startswith("sdaccel."):
        return "a hook has replaced its forward"
    return None


def _forward_of(entry: Any) -> tuple[Any, str]:
    """Where what runs a denoiser hangs: within all that may leave it out at a step, or outside."""
    from .guidance_state import TwoCalls
    from .step_cache_whole import LeftOutWhole

    owner, name = entry, "forward"
    while isinstance(owner.__dict__.get(name), (LeftOutWhole, TwoCalls)):
        owner, name = owner.__dict__[name], "stock"
    return owner, name


def _sources(entry: Any) -> Iterator[Source]:
    """What passes that were applied before have to do with a denoiser's forwards."""
    from . import hoist_graph, step_cache_graph
    from .hoist import HOISTING
    from .step_cache_paths import CACHE

    if CACHE in entry.__dict__:
        yield partial(step_cache_graph.part_of, entry.__dict__[CACHE])
    if HOISTING in entry.__dict__:
        yield partial(hoist_graph.part_of, entry.__dict__[HOISTING])
