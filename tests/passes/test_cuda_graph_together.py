"""Graphs over other passes, and whole pictures by them: every one is what it is without graphs."""

from __future__ import annotations

from typing import Any

import caching
import pytest
import recording
import tiny
import torch
from recording import PLANS, Draw, alike, draw
from taping import taped

import sdaccel
from sdaccel.errors import PlanError

pytestmark = pytest.mark.usefixtures("plain_torch", "no_choices")


def other_pipeline(name: str) -> Any:
    import diffusers

    parts = tiny.stable_diffusion().components
    pipe = getattr(diffusers, name)(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def img2img() -> Any:
    return other_pipeline("StableDiffusionImg2ImgPipeline")


def inpainting() -> Any:
    return other_pipeline("StableDiffusionInpaintPipeline")


def picture() -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def draw_from(pipe: Any, **changes: Any) -> Any:
    return tiny.draw(pipe, **{"image": picture(), "num_inference_steps": 8, **changes})


def draw_inside(pipe: Any, **changes: Any) -> Any:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    return draw_from(pipe, **{"mask_image": mask, "height": 16, "width": 16, **changes})


PIPES: list[tuple[Draw, Draw]] = [
    (tiny.stable_diffusion, draw),
    (caching.flux, draw),
    (caching.controlnet, draw),
    (img2img, draw_from),
    (inpainting, draw_inside),
]


def both(pipe: Any, drawn: Draw, **passes: Any) -> tuple[list[Any], list[Any]]:
    """What is drawn under a plan, without graphs and with them."""
    with taped():
        return recording.both(pipe, drawn, "cuda_graph", **passes)


def ran(pipe: Any, name: str) -> int:
    return recording.ran(pipe, "cuda_graph", name)


@pytest.mark.parametrize(("make", "drawn"), PIPES)
@pytest.mark.parametrize("plan", ["exact", "all"])
def test_pictures_of_every_task_are_those_without_graphs(
    plan: str, make: Draw, drawn: Draw
) -> None:
    pipe = make()
    before, graphs = both(pipe, lambda pipe: [drawn(pipe), drawn(pipe)], **PLANS[plan])
    assert alike(before, graphs)
    assert ran(pipe, "replays") > 5
    assert ran(pipe, "fallbacks") == 0


@pytest.mark.parametrize("plan", ["16 bit", "hoist", "step_cache"])
def test_pictures_of_every_plan_are_those_without_graphs(plan: str) -> None:
    def drawn(pipe: Any) -> list[Any]:
        return [draw(pipe, prompt=prompt) for prompt in ("a cat", "a dog", "a cat")]

    pipe = tiny.stable_diffusion()
    before, graphs = both(pipe, drawn, **PLANS[plan])
    assert alike(before, graphs)
    assert ran(pipe, "replays") >= 3 * 8 - 8
    assert ran(pipe, "fallbacks") == 0


def test_a_cache_has_one_graph_for_full_steps_and_one_for_shallow_ones() -> None:
    pipe = tiny.stable_diffusion()
    before, graphs = both(pipe, draw, step_cache={"steps": [0, 1, 3, 5], "fewest_steps": 1})
    assert (before == graphs).all()
    assert ran(pipe, "captures") == 2
    assert ran(pipe, "replays") == 8 - 2
    cache = sdaccel.report(pipe)["step_cache"].ran
    assert (cache["unet full"], cache["unet shallow"]) == (6, 2)


def test_a_denoiser_that_is_left_out_as_a_whole_is_not_replayed() -> None:
    pipe = tiny.stable_diffusion()
    options = {"steps": [0, 1, 3, 5], "fewest_steps": 1, "skip": "whole"}
    before, graphs = both(pipe, draw, step_cache=options, hoist=True)
    assert (before == graphs).all()
    assert ran(pipe, "captures") >= 1
    assert ran(pipe, "fallbacks") == 0
    cache = sdaccel.report(pipe)["step_cache"].ran
    assert (cache["unet full"], cache["unet left out"]) == (6, 2)
    assert ran(pipe, "replays") + ran(pipe, "calls as they are") == 6
    sdaccel.restore(pipe)
    assert (draw(pipe) == draw(tiny.stable_diffusion())).all()


@pytest.mark.parametrize("plan", ["hoist", "step_cache", "all"])
def test_another_number_of_steps_is_another_generation_not_an_old_one(plan: str) -> None:
    def drawn(pipe: Any) -> list[Any]:
        return [draw(pipe, num_inference_steps=steps) for steps in (8, 5, 11, 8)]

    pipe = tiny.stable_diffusion()
    before, graphs = both(pipe, drawn, **PLANS[plan])
    assert alike(before, graphs)
    assert ran(pipe, "replays") > 8


@pytest.mark.parametrize("plan", ["exact", "all"])
def test_a_callback_may_put_in_other_latents_of_another_size_and_another_text(plan: str) -> None:
    def change(_: Any, step: int, __: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            wide = torch.nn.functional.interpolate(given["latents"], scale_factor=2)
            return {**given, "latents": wide}
        if step == 5:
            return {**given, "prompt_embeds": given["prompt_embeds"].flip(1) * 0.5}
        return given

    def drawn(pipe: Any) -> list[Any]:
        options = {
            "callback_on_step_end": change,
            "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
        }
        return [draw(pipe, **options), draw(pipe), draw(pipe, **options)]

    pipe = tiny.stable_diffusion()
    before, graphs = both(pipe, drawn, **PLANS[plan])
    assert before[0].shape == (1, 32, 32, 3)
    assert alike(before, graphs)
    assert ran(pipe, "replays") > 5


@pytest.mark.parametrize("plan", ["exact", "all"])
def test_another_batch_another_size_and_an_interruption_are_no_trouble(plan: str) -> None:
    class StopError(Exception):
        pass

    def stop(*_: Any) -> Any:
        raise StopError

    def drawn(pipe: Any) -> list[Any]:
        found = [draw(pipe)]
        with pytest.raises(StopError):
            draw(pipe, callback_on_step_end=stop)
        found.append(draw(pipe, prompt=["a cat", "a dog"]))
        found.append(draw(pipe, height=32, width=32))
        return [*found, draw(pipe, guidance_scale=1.0), draw(pipe)]

    pipe = tiny.stable_diffusion()
    before, graphs = both(pipe, drawn, **PLANS[plan])
    assert alike(before, graphs)
    assert ran(pipe, "captures") >= 4


@pytest.mark.parametrize("other", ["token_merge", "sparse_attention"])
@pytest.mark.parametrize("recorded", ["cuda_graph", "flatten"])
def test_passes_that_decide_by_the_step_are_not_recorded(recorded: str, other: str) -> None:
    with pytest.raises(PlanError, match=other):
        sdaccel.Plan.of(f"none+{recorded}+{other}")
