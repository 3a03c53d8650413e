"""Whole trajectories of a scheduler, with a denoiser that costs nothing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch.overrides import TorchFunctionMode

import sdaccel.schedulers

SHAPE = (2, 4, 3, 5)
PUBLISHED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Stable Diffusion's noise schedule."""


@dataclass(frozen=True)
class Run:
    """A scheduler's name and configuration, its schedule, and the options of its steps.

    `schedule` are the arguments of `set_timesteps`, `begin` the step to start at.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"num_inference_steps": 6})
    options: Mapping[str, Any] = field(default_factory=dict)
    begin: int = 0

    def __str__(self) -> str:
        parts = {**self.config, **self.options, **({"begin": self.begin} if self.begin else {})}
        own = [f"{key}={value}" for key, value in parts.items() if key not in PUBLISHED]
        return "-".join([self.name.removesuffix("Scheduler"), *own])

    def stock(self) -> Any:
        """The scheduler of diffusers."""
        return getattr(diffusers, self.name)(**self.config)

    def ours(self) -> Any:
        """Its stand-in."""
        return getattr(sdaccel.schedulers, self.name)(**self.config)


def follow(
    run: Run,
    scheduler: Any,
    dtype: torch.dtype = torch.float32,
    prediction_dtype: torch.dtype | None = None,
) -> list[tuple[torch.Tensor, ...]]:
    """What each step returns, the denoiser being a function of sample and timestep."""
    scheduler.set_timesteps(**run.schedule)
    if run.begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(run.begin)
    options = dict(run.options)
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(1)
    sample = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)
    sample = sample * float(getattr(scheduler, "init_noise_sigma", 1.0))
    found = []
    for timestep in scheduler.timesteps[run.begin :]:
        model_input = sample
        if hasattr(scheduler, "scale_model_input"):
            model_input = scheduler.scale_model_input(sample, timestep)
        prediction = denoise(model_input).to(prediction_dtype or dtype)
        result = scheduler.step(prediction, timestep, sample, **options)
        found.append(tuple(result.values()))
        sample = result.prev_sample
    return found


def denoise(model_input: torch.Tensor) -> torch.Tensor:
    """Bounded, and smooth, so that rounding errors don't grow on the way."""
    return torch.tanh(0.5 * model_input + 0.1)


def distance(found: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]) -> float:
    """The largest relative L2 distance of a step's results."""
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(found, truth, strict=True)]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


class Exactly(TorchFunctionMode):
    """Within it stock computes in float64, where it would cast to fp32, or draw noise in it."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.Tensor.to and args[0].dtype == torch.float64:
            wanted = [*args[1:], *(kwargs or {}).values()]
            if any(each in (torch.float32, torch.float16, torch.bfloat16) for each in wanted):
                return args[0]
        return function(*args, **(kwargs or {}))
