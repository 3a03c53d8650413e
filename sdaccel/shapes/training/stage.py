"""What a training is made of: stages, each with its recipe, and the job that runs one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from sdaccel.shapes.training.loop import Recipe

MODELS = {
    "unet": "sdaccel.shapes.training.unet",
    "dit": "sdaccel.shapes.training.dit",
    "video": "sdaccel.shapes.training.video",
}


@dataclass(frozen=True)
class Job:
    """What a stage is told: where its files are and how much to do.

    `start` is the folder of an exported pipeline to take trained parts from, `target` the folder to
    export or pack into. A training measures its model on `evaluate_count` held-out prompts every
    `evaluate_minutes`.
    """

    folder: Path
    recipe: Recipe
    start: Path | None = None
    target: Path | None = None
    pictures: int = 12000
    scenes: int = 40000
    evaluate_minutes: float = 10.0
    evaluate_count: int = 80


@dataclass(frozen=True)
class Stage:
    """One part of a training; `alone` needs one process, and `always` is part of "all"."""

    run: Callable[[Job], None]
    recipe: Recipe = field(default_factory=Recipe)
    alone: bool = False
    always: bool = True


def stages_of(model: str) -> dict[str, Stage]:
    """The stages of a model by name, in order; each model's module lists its own."""
    stages: dict[str, Stage] = import_module(MODELS[model]).STAGES
    return stages
