"""The pass gives a pipe's scheduler its stand-in, counts its steps, and takes it back."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch

import sdaccel
from sdaccel.errors import SdaccelWarning
from sdaccel.schedulers.tabled import Tabled

FAMILIES = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
]


def pipe_with(name: str, **config: Any) -> Any:
    stock = getattr(diffusers, name)
    published = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "clip_sample": False,
    }
    known = inspect.signature(stock).parameters
    given = {key: value for key, value in {**published, **config}.items() if key in known}
    return tiny.stable_diffusion(scheduler=stock(**given))


def guided(steps: int) -> dict[str, int]:
    """What so many steps count in a pipe that guides."""
    return {"steps from the table": steps, "guided predictions combined": steps}


def apart(found: Any, truth: Any) -> float:
    """Relative L2 of two pictures."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_is_stocks(name: str) -> None:
    pipe = pipe_with(name)
    truth = tiny.draw(pipe, num_inference_steps=4)
    sdaccel.accelerate(pipe, "none", schedulers=True)
    for _ in range(2):
        assert apart(tiny.draw(pipe, num_inference_steps=4), truth) <= 1e-5
    record = sdaccel.report(pipe)["schedulers"]
    steps = 2 * (7 if name.startswith("Heun") else 4)
    assert record.ran == guided(steps)
    assert record.changed == {name: 1}
    assert sdaccel.report(pipe).generations == 2
    sdaccel.restore(pipe)
    assert (tiny.draw(pipe, num_inference_steps=4) == truth).all()


def test_a_transformers_picture_is_stocks() -> None:
    pipe = tiny.flux()
    truth = tiny.draw_flux(pipe, num_inference_steps=3)
    sdaccel.accelerate(pipe, "none", schedulers=True)
    assert apart(tiny.draw_flux(pipe, num_inference_steps=3), truth) <= 1e-5
    assert sdaccel.report(pipe)["schedulers"].ran == guided(3)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
)
def test_image_to_image_starts_in_the_middle(name: str) -> None:
    parts = pipe_with(name).components
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    options = {"image": image, "strength": 0.6, "num_inference_steps": 5}
    truth = tiny.draw(pipe, **options)
    sdaccel.accelerate(pipe, "none", schedulers=True)
    assert apart(tiny.draw(pipe, **options), truth) <= 1e-5
    assert sdaccel.report(pipe)["schedulers"].ran == guided(3)


def test_the_scheduler_is_put_back_as_it_was() -> None:
    pipe = pipe_with("UniPCMultistepScheduler")
    scheduler, names = pipe.scheduler, set(vars(pipe.scheduler))
    sdaccel.accelerate(pipe, "none", schedulers=True)
    assert isinstance(pipe.scheduler, Tabled)
    assert pipe.scheduler is scheduler
    sdaccel.restore(pipe)
    assert type(scheduler) is diffusers.UniPCMultistepScheduler
    assert set(vars(scheduler)) == names


def test_restoring_in_the_middle_leaves_stock_where_it_would_be() -> None:
    def denoise(sample: torch.Tensor) -> torch.Tensor:
        return torch.tanh(0.5 * sample)

    results = []
    for accelerated in (False, True):
        pipe = pipe_with("DPMSolverMultistepScheduler")
        if accelerated:
            sdaccel.accelerate(pipe, "none", schedulers=True)
        pipe.scheduler.set_timesteps(8)
        sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        for index, timestep in enumerate(pipe.scheduler.timesteps):
            if index == 4:
                sdaccel.restore(pipe)
            sample = pipe.scheduler.step(denoise(sample), timestep, sample).prev_sample
        results.append(sample.numpy())
    assert apart(results[1], results[0]) <= 1e-6


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("PNDMScheduler", {"skip_prk_steps": True}, "no stand-in for this class"),
        ("DDIMScheduler", {"thresholding": True}, "thresholding looks at the values"),
    ],
)
def test_what_has_no_stand_in_is_refused(name: str, config: Any, words: str) -> None:
    pipe = pipe_with(name, **config)
    truth = tiny.draw(pipe)
    sdaccel.accelerate(pipe, "none", schedulers=True)
    record = sdaccel.report(pipe)["schedulers"]
    assert words in record.refused[name]
    assert not record.applied
    assert (tiny.draw(pipe) == truth).all()


def test_a_scheduler_of_our_own_is_left_as_it_is() -> None:
    from sdaccel.schedulers import DDIMScheduler

    pipe = tiny.stable_diffusion(scheduler=DDIMScheduler(clip_sample=False, steps_offset=1))
    truth = tiny.draw(tiny.stable_diffusion())
    assert apart(tiny.draw(pipe), truth) <= 1e-5
    sdaccel.accelerate(pipe, "none", schedulers=True)
    assert "already" in sdaccel.report(pipe)["schedulers"].refused["DDIMScheduler"]


def test_steps_that_stock_makes_are_reported_with_their_reason() -> None:
    pipe = pipe_with("DDIMScheduler")
    sdaccel.accelerate(pipe, "none", schedulers=True)
    pipe.scheduler.set_timesteps(4)
    sample = torch.randn(1, 4, 8, 8)
    with pytest.warns(SdaccelWarning, match="none of the schedule's"):
        pipe.scheduler.step(sample, 123, sample)
    record = sdaccel.report(pipe)["schedulers"]
    assert record.ran["steps made by stock"] == 1
    assert any("none of the schedule's" in note for note in record.notes)


def test_a_scheduler_put_in_later_is_told_of_and_given_its_stand_in_when_asked() -> None:
    pipe = pipe_with("DDIMScheduler")
    sdaccel.accelerate(pipe, "none", schedulers=True)
    pipe.scheduler = pipe_with("UniPCMultistepScheduler").scheduler
    with pytest.warns(SdaccelWarning, match=r"stock's own steps: call accelerate\(pipe\) again"):
        tiny.draw(pipe)
    sdaccel.accelerate(pipe, "none", schedulers=True)
    tiny.draw(pipe)
    assert sdaccel.report(pipe)["schedulers"].ran == guided(2)


def test_a_shared_scheduler_is_given_its_stand_in_once() -> None:
    first = pipe_with("DDIMScheduler")
    second = tiny.stable_diffusion(**{**first.components, "image_encoder": None})
    sdaccel.accelerate(first, "none", schedulers=True)
    sdaccel.accelerate(second, "none", schedulers=True)
    assert "shared" in sdaccel.report(second)["schedulers"].refused["DDIMScheduler"]
    with pytest.warns(SdaccelWarning, match="stay accelerated"):
        sdaccel.restore(first)
    sdaccel.restore(second)
    assert type(first.scheduler) is diffusers.DDIMScheduler
