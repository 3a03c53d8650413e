"""The prompts that the embedded models have of their own, and what says whether they are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def prompts(model: str, count: int, evaluation: bool) -> list[str]:
    """The first `count` held-out prompts, or evaluation ones, of an embedded model's grammar."""
    from .. import shapes

    return shapes.evaluation_prompts(count) if evaluation else shapes.held_out_prompts(count)


def shows(model: str) -> Callable[[Any, str], bool]:
    """Whether what an embedded model drew shows its prompt; `ValueError` outside its grammar."""
    from .. import shapes

    return lambda pixels, prompt: shapes.check(pixels, prompt).passed
