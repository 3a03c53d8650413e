"""With every kind of sampler a denoiser left out as a whole beats stock in as few steps."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import diffusers
import pytest
import torch

import sdaccel
from sdaccel import shapes
from sdaccel.quality.pictures import psnr

PROMPTS = shapes.held_out_prompts(2)


def drawn(pipe: Any, name: str, **changes: Any) -> Any:
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    call = {**shapes.call_defaults(name), "output_type": "np", **changes}
    return pipe(PROMPTS, generator=generators, **call).images


def decibels(one: Any, other: Any) -> float:
    return fmean(psnr(*pair) for pair in zip(one, other, strict=True))


def gain(name: str, scheduler: str | None) -> float:
    """By how many dB 9 of 25 steps are nearer to all 25 than a generation of 9 steps is."""
    pipe = shapes.load(name)
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        kind = getattr(diffusers, scheduler)
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
    stock, fewer = drawn(pipe, name), drawn(pipe, name, num_inference_steps=9)
    sdaccel.accelerate(pipe, "none", step_cache={"skip": "whole", "interval": 3})
    found = drawn(pipe, name)
    (full,) = (n for key, n in sdaccel.report(pipe)["step_cache"].ran.items() if "full" in key)
    assert full in (9, 18)
    return decibels(stock, found) - decibels(stock, fewer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler",
    [
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_a_unet_s_pictures_are_nearer_than_those_of_fewer_steps(scheduler: str) -> None:
    assert gain("unet", scheduler) > 0


@pytest.mark.slow
def test_a_transformer_s_pictures_are_nearer_than_those_of_fewer_steps() -> None:
    assert gain("dit", None) > 0


def test_where_a_sampler_adds_noise_outputs_are_repeated_and_the_report_says_so() -> None:
    pipe = shapes.load("unet")
    kind = diffusers.EulerAncestralDiscreteScheduler
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    sdaccel.accelerate(pipe, "none", step_cache={"skip": "whole", "forecast": 2})
    assert sdaccel.report(pipe)["step_cache"].notes == [
        "unet: forecast is 0, for the sampler adds noise at each step"
    ]
