"""Generations of tiny denoisers with the hoist pass on, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from denoising import loop

import sdaccel
from sdaccel.benchmarks.families import families
from sdaccel.benchmarks.family_pipeline import FamilyPipeline, model_of, pipeline_of
from sdaccel.benchmarks.measure import relative_error

SHOWS = 1e-3
"""A change of the inputs or the weights changes the output by at least this much."""
Change = Callable[[Any, int, list[dict[str, Any]]], None]


def hoisted(pipe: Any, **options: Any) -> Any:
    return sdaccel.accelerate(pipe, "none", hoist=options or True)


def ran(pipe: Any) -> Any:
    return sdaccel.report(pipe)["hoist"].ran


def pipe_of(name: str) -> FamilyPipeline:
    (family,) = families([name])
    return pipeline_of(family)


def run(pipe: FamilyPipeline, name: str, change: Change | None = None, **how: Any) -> Any:
    """One generation; `change` is called with the model before each step."""
    (family,) = families([name])

    def callback(step: int, inputs: list[dict[str, Any]]) -> None:
        if change is not None:
            change(model_of(pipe), step, inputs)

    return loop(pipe, family, callback=callback, **{"steps": 6, **how})


def errors(found: Any, wanted: Any) -> float:
    return max(map(relative_error, found, wanted))
