"""The embedded models: tiny pipelines of stock classes, really trained, on drawn scenes.

    from sdaccel import shapes

    pipe = shapes.load("unet")
    prompt = "a large red circle above a small blue square on a green background"
    pipe(prompt, **shapes.call_defaults("unet"))

A prompt is a sentence of `shapes.grammar`; `shapes.render` draws what it should look like,
`shapes.check` says whether a picture shows it, and `shapes.prompt_fidelity` measures the share of
held-out prompts that a pipeline gets right. For clips of moving things `shapes.video` has the same:
`shapes.render_clip`, `shapes.check_clip` and `shapes.clip_fidelity`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdaccel.shapes.checker import Check, check
    from sdaccel.shapes.fidelity import (
        Fidelity,
        evaluation_prompts,
        held_out_prompts,
        prompt_fidelity,
    )
    from sdaccel.shapes.grammar import Scene, is_held_out, parse, split
    from sdaccel.shapes.renderer import render
    from sdaccel.shapes.video.checker import ClipCheck, check_clip
    from sdaccel.shapes.video.fidelity import clip_fidelity, clip_prompts
    from sdaccel.shapes.video.renderer import render_clip
    from sdaccel.shapes.weights import WeightsError, call_defaults, load, names

_HOMES = {
    "Check": "checker",
    "check": "checker",
    "Fidelity": "fidelity",
    "evaluation_prompts": "fidelity",
    "held_out_prompts": "fidelity",
    "prompt_fidelity": "fidelity",
    "Scene": "grammar",
    "is_held_out": "grammar",
    "parse": "grammar",
    "split": "grammar",
    "render": "renderer",
    "ClipCheck": "video.checker",
    "check_clip": "video.checker",
    "clip_fidelity": "video.fidelity",
    "clip_prompts": "video.fidelity",
    "render_clip": "video.renderer",
    "WeightsError": "weights",
    "call_defaults": "weights",
    "load": "weights",
    "names": "weights",
}

__all__ = [
    "Check",
    "ClipCheck",
    "Fidelity",
    "Scene",
    "WeightsError",
    "call_defaults",
    "check",
    "check_clip",
    "clip_fidelity",
    "clip_prompts",
    "evaluation_prompts",
    "held_out_prompts",
    "is_held_out",
    "load",
    "names",
    "parse",
    "prompt_fidelity",
    "render",
    "render_clip",
    "split",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
