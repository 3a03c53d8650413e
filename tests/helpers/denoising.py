"""A denoising loop around the model of a family: inputs that stay, latents and timesteps that move.

Schedules are those of a pipeline: `set_timesteps`, one or two calls of the model a step, `step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from sdaccel.benchmarks.families import SIZES, Family, Size, forward
from sdaccel.benchmarks.family_pipeline import FamilyPipeline, model_of

LATENTS = ("hidden_states", "sample", "x")


def loop(
    pipe: FamilyPipeline,
    family: Family,
    steps: int = 4,
    dtype: torch.dtype = torch.float32,
    guided: bool = False,
    seed: int = 0,
    size: Size = SIZES[0],
    callback: Callable[[int, list[dict[str, Any]]], None] = lambda *_: None,
) -> list[torch.Tensor]:
    """The outputs of all calls of one generation; `guided` makes a second call with other text.

    `callback` gets the inputs of a step's calls beforehand, and may change them.
    """
    model = model_of(pipe)
    draws = [family.draw(size, seed + 100 * call, dtype) for call in range(1 + guided)]
    pipe.scheduler.set_timesteps(steps)
    outputs = []
    for step, t in enumerate(pipe.scheduler.timesteps):
        callback(step, draws)
        for inputs in draws:
            moved = {**inputs, **dict(_moved(inputs, t, 1000 * seed + step))}
            outputs.append(forward(model, moved))
        pipe.scheduler.step(torch.zeros(1, 1), t, torch.zeros(1, 1))
    return outputs


def _moved(inputs: dict[str, Any], t: torch.Tensor, seed: int) -> Iterator[tuple[str, Any]]:
    """This step's latents and timestep, as the family's pipeline would make it."""
    random = torch.Generator().manual_seed(seed)
    for name, value in inputs.items():
        if name in LATENTS:
            several = value if isinstance(value, list) else [value]
            drawn = [torch.randn(each.shape, generator=random).to(each.dtype) for each in several]
            yield name, drawn if isinstance(value, list) else drawn[0]
        elif name in ("timestep", "t"):
            made = t.expand(value.shape).to(value.dtype)
            yield name, made if value.float().max() > 1 else made / 1000
