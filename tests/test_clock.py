"""The clock tells generation, step and call for every way of driving a pipeline."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import tiny
import torch

import sdaccel
from sdaccel.clock import Clock, attach_module
from sdaccel.patch import Patch
from sdaccel.target import Component


def clock_of(pipe: Any) -> Clock:
    clock: Clock = pipe.__dict__["_sdaccel"].target.clock
    return clock


class Recorder:
    """Notes (generation, step, call within the step, total steps) at each call of a denoiser."""

    def __init__(self, pipe: Any, name: str) -> None:
        self.seen: list[tuple[int, int, int, int | None]] = []
        clock = clock_of(pipe)

        def note(*_: Any) -> None:
            calls = clock.step_calls[name]
            self.seen.append((clock.generation, clock.step, calls - 1, clock.total_steps))

        getattr(pipe, name).register_forward_pre_hook(note)


@pytest.fixture
def pipe() -> Any:
    return sdaccel.accelerate(tiny.stable_diffusion(), "eager")


def test_batched_guidance_is_one_call_a_step(pipe: Any) -> None:
    recorder = Recorder(pipe, "unet")
    tiny.draw(pipe, num_inference_steps=3)
    assert recorder.seen == [(1, 0, 0, 3), (1, 1, 0, 3), (1, 2, 0, 3)]
    assert sdaccel.report(pipe).calls == {"text_encoder": 2, "unet": 3, "vae": 1}


def test_sequential_guidance_is_two_calls_a_step() -> None:
    pipe = sdaccel.accelerate(tiny.flux(), "eager")
    recorder = Recorder(pipe, "transformer")
    tiny.draw_flux(pipe)
    assert recorder.seen == [(1, 0, 0, 2), (1, 0, 1, 2), (1, 1, 0, 2), (1, 1, 1, 2)]


def test_generations_are_counted(pipe: Any) -> None:
    recorder = Recorder(pipe, "unet")
    tiny.draw(pipe)
    tiny.draw(pipe)
    assert [seen[0] for seen in recorder.seen] == [1, 1, 2, 2]
    assert sdaccel.report(pipe).generations == 2


def test_image_to_image_has_a_shorter_schedule() -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    parts = tiny.stable_diffusion().components
    stock = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    pipe = sdaccel.accelerate(stock, "eager")
    recorder = Recorder(pipe, "unet")
    tiny.draw(pipe, image=torch.rand(1, 3, 16, 16), strength=0.5, num_inference_steps=4)
    assert recorder.seen == [(1, 0, 0, 2), (1, 1, 0, 2)]


def test_an_exception_in_mid_generation_is_forgotten(pipe: Any) -> None:
    recorder = Recorder(pipe, "unet")

    def fail(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            raise RuntimeError("stop")
        return kwargs

    with pytest.raises(RuntimeError, match="stop"):
        tiny.draw(pipe, num_inference_steps=4, callback_on_step_end=fail)
    assert clock_of(pipe).last_sample is None
    assert not clock_of(pipe).running
    tiny.draw(pipe)
    assert recorder.seen == [(1, 0, 0, 4), (1, 1, 0, 4), (2, 0, 0, 2), (2, 1, 0, 2)]


def test_a_callback_sees_the_clock_after_its_step(pipe: Any) -> None:
    steps = []

    def note(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        steps.append((step, clock_of(pipe).step))
        return kwargs

    tiny.draw(pipe, num_inference_steps=3, callback_on_step_end=note)
    assert steps == [(0, 1), (1, 2), (2, 3)]


def test_a_loop_written_by_hand_drives_it_too(pipe: Any) -> None:
    recorder = Recorder(pipe, "unet")
    embeddings = torch.zeros(1, 4, 32)
    for _ in range(2):
        pipe.scheduler.set_timesteps(2)
        latents = torch.zeros(1, 4, 8, 8)
        for timestep in pipe.scheduler.timesteps:
            with torch.no_grad():
                noise = pipe.unet(latents, timestep, embeddings).sample
            latents = pipe.scheduler.step(noise, timestep, latents).prev_sample
    assert recorder.seen == [(1, 0, 0, 2), (1, 1, 0, 2), (2, 0, 0, 2), (2, 1, 0, 2)]


def test_listeners_hear_every_generation_begin(pipe: Any) -> None:
    heard: list[int] = []
    clock = clock_of(pipe)
    clock.listeners.append(lambda: heard.append(clock.generation))
    tiny.draw(pipe)
    tiny.draw(pipe)
    assert heard == [1, 2]


def test_a_scheduler_put_in_later_drives_it_too(pipe: Any) -> None:
    from diffusers import EulerDiscreteScheduler

    recorder = Recorder(pipe, "unet")
    mine = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler = mine
    tiny.draw(pipe)
    assert recorder.seen == [(1, 0, 0, 2), (1, 1, 0, 2)]
    sdaccel.restore(pipe)
    assert type(mine) is EulerDiscreteScheduler
    assert not any(name.startswith("_sdaccel") for name in vars(mine))


def test_schedulers_keep_their_signatures_and_configuration(pipe: Any, tmp_path: Any) -> None:
    from diffusers import DDIMScheduler

    scheduler = pipe.scheduler
    for method in ("step", "set_timesteps"):
        stock = inspect.signature(getattr(DDIMScheduler, method))
        assert list(inspect.signature(getattr(scheduler, method)).parameters) == [
            name for name in stock.parameters if name != "self"
        ]
    scheduler.save_pretrained(tmp_path)
    assert type(DDIMScheduler.from_pretrained(tmp_path)) is DDIMScheduler
    assert isinstance(scheduler, DDIMScheduler)


def test_a_copied_scheduler_does_not_drive_the_clock(pipe: Any) -> None:
    twin = copy.deepcopy(pipe.scheduler)
    twin.set_timesteps(2)
    assert clock_of(pipe).generation == 0


def test_calls_inside_a_compiled_graph_are_not_counted_and_compile_nothing_anew() -> None:
    clock, patch, model = Clock(), Patch(), torch.nn.Linear(4, 4)
    attach_module(clock, Component("unet", model, "denoiser", None), patch)
    model(torch.ones(1, 4))
    assert clock.calls["unet"] == 1
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(torch.ones(1, 4))
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(torch.ones(1, 4))
    assert clock.calls["unet"] == 1
