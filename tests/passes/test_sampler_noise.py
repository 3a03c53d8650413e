"""A sampler that adds noise is known by its steps, whatever it is called."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import tiny
import torch

import sdaccel
from sdaccel.passes.sampler_noise import adds_noise

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
SDE = {"algorithm_type": "sde-dpmsolver++"}


@pytest.mark.parametrize(
    ("name", "options", "noisy"),
    [
        ("DDIMScheduler", {}, False),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, False),
        ("EulerDiscreteScheduler", {}, False),
        ("HeunDiscreteScheduler", {}, False),
        ("UniPCMultistepScheduler", {}, False),
        ("DPMSolverMultistepScheduler", {}, False),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, False),
        ("FlowMatchHeunDiscreteScheduler", {}, False),
        ("EulerAncestralDiscreteScheduler", {}, True),
        ("KDPM2AncestralDiscreteScheduler", {}, True),
        ("DDPMScheduler", {}, True),
        ("LCMScheduler", {}, True),
        ("TCDScheduler", {}, True),
        ("SASolverScheduler", {}, True),
        ("DPMSolverMultistepScheduler", SDE, True),
        ("DPMSolverSinglestepScheduler", SDE, True),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, True),
    ],
)
def test_what_a_step_does_tells_and_nothing_is_drawn_from_the_user_s_numbers(
    name: str, options: dict[str, Any], noisy: bool
) -> None:
    kind = getattr(diffusers, name)
    scheduler = kind(**options)
    before, numbers = dict(vars(scheduler)), torch.get_rng_state()
    assert adds_noise(scheduler) is noisy
    assert adds_noise(type("Mine", (kind,), {})(**options)) is noisy
    assert vars(scheduler) == before
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.parametrize("stand_in", [False, True])
def test_a_scheduler_at_work_is_known_by_its_steps_and_its_clock_hears_nothing(
    stand_in: bool,
) -> None:
    pipe = tiny.stable_diffusion()
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    sdaccel.accelerate(pipe, "none", schedulers=stand_in, step_cache={"skip": "whole"})
    assert sdaccel.report(pipe)["step_cache"].notes == [
        "unet: forecast is 0, for the sampler adds noise at each step"
    ]
    before = vars(pipe.scheduler).copy()
    assert adds_noise(pipe.scheduler)
    assert vars(pipe.scheduler) == before


def test_what_can_not_be_tried_is_not_taken_for_noise() -> None:
    assert not adds_noise(None)
    assert not adds_noise(object())
