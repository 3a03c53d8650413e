"""Generations of tiny denoisers with the hoist pass on, what changes amid them, and how far two of
them are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from denoising import loop
from features import lora

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


def replace_text(_: Any, step: int, inputs: list[dict[str, Any]]) -> None:
    """Another tensor in the place of the text."""
    if step == 3:
        inputs[0]["encoder_hidden_states"] = inputs[0]["encoder_hidden_states"] * 0.5


def conditioning_weights(model: Any) -> Iterator[torch.nn.Parameter]:
    """Weights that timestep and text go through: their embeddings, modulations, and the keys."""
    for name, weight in model.named_parameters():
        if any(part in name for part in ("time", "to_k", "norm1.linear")):
            yield weight


def edit_weights(model: Any, step: int, _: Any) -> None:
    """Some weights written to where they lie."""
    if step == 3:
        with torch.no_grad():
            for weight in conditioning_weights(model):
                weight.mul_(1.2)


def scale_adapter(model: Any, step: int, _: Any) -> None:
    """An adapter from the start, of another strength later."""
    if step == 0 and not hasattr(model, "peft_config"):
        lora(model)
    if step == 3:
        model.set_adapters("default", 0.3)


def with_other_timesteps(pipe: FamilyPipeline, name: str) -> Any:
    """A generation whose schedule is another one from its fourth step on."""

    def change(_: Any, step: int, __: Any) -> None:
        if step == 3:
            pipe.scheduler.timesteps.sub_(7.0)

    return run(pipe, name, change)
