"""Which denoisers run step by step in Python, so that a pass can do other work at some steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..target import Component, Target


def not_eager(component: Component, model: Any, target: Target) -> str | None:
    """Why what a denoiser does can't differ from step to step, in half a sentence, or None."""
    import torch

    if any(id(each) in target.compiled for each in (component.entry, *model.modules())):
        return "compiled: leave compile out, since a graph does the same at every step"
    if isinstance(model, torch._dynamo.OptimizedModule) or any(
        each._compiled_call_impl is not None for each in model.modules()
    ):
        return "compiled by the user: load it uncompiled"
    if getattr(model, "_cache_config", None) is not None:
        return "diffusers' own cache is enabled: call its disable_cache() first"
    return None
