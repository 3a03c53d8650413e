"""The prompts that the embedded models have of their own, and what says whether they are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import models


def prompts(model: str, count: int, evaluation: bool) -> list[str]:
    """The first `count` held-out prompts, or evaluation ones, of an embedded model's grammar."""
    from .. import shapes

    if makes_clips(model):
        return shapes.clip_prompts(count, "evaluation" if evaluation else "held-out")
    return shapes.evaluation_prompts(count) if evaluation else shapes.held_out_prompts(count)


def shows(model: str) -> Callable[[Any, str], bool]:
    """Whether what an embedded model drew shows its prompt; `ValueError` outside its grammar."""
    from .. import shapes

    check = shapes.check_clip if makes_clips(model) else shapes.check
    return lambda pixels, prompt: check(pixels, prompt).passed


def makes_clips(model: str) -> bool:
    """Whether an embedded model draws clips, not pictures."""
    return "num_frames" in models.call_defaults(model)
