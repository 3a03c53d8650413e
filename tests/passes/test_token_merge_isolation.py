"""No map of one picture ever serves another one; and all is taken back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny
import torch
from caching import STEPS, apart, draw, flux
from merging import merging, record

import sdaccel


class StoppedError(Exception):
    pass


def fresh(**changes: Any) -> Any:
    """What a pipe of its own draws."""
    return draw(merging(tiny.stable_diffusion()), **changes)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pictures_one_after_the_other_are_those_of_pipes_of_their_own() -> None:
    pipe = merging(tiny.stable_diffusion())
    requests: list[dict[str, Any]] = [
        {"prompt": "a cat"},
        {"prompt": "a dog", "generator": seeded(7)},
        {"prompt": ["a cat", "a dog"]},
        {"prompt": "a cat", "height": 24, "width": 16},
        {"prompt": "a cat", "guidance_scale": 1.0},
        {"prompt": "a cat"},
    ]
    found = [draw(pipe, **each) for each in requests]
    requests[1]["generator"] = seeded(7)
    for each, picture in zip(requests, found, strict=True):
        assert apart(picture, fresh(**each)) == 0


@pytest.mark.parametrize("shared", [False, True])
def test_a_pipe_that_draws_amid_another_s_steps_changes_nothing(shared: bool) -> None:
    """With a UNet of its own, or with the same one and no acceleration of its own."""
    outer = merging(tiny.stable_diffusion())
    unet = {"unet": outer.unet} if shared else {}
    inner = tiny.stable_diffusion(**unet)
    if not shared:
        merging(inner)
    amid = []

    def interrupt(_: Any, step: int, __: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step in (0, 4):
            amid.append(draw(inner, prompt="a dog", num_inference_steps=4))
        return kwargs

    found = draw(outer, prompt="a cat", callback_on_step_end=interrupt)
    assert apart(found, fresh(prompt="a cat")) == 0
    assert apart(*amid) == 0


def test_after_an_interruption_the_next_picture_starts_with_nothing() -> None:
    pipe = merging(tiny.stable_diffusion())

    def interrupt(_: Any, step: int, __: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 4:
            raise StoppedError
        return kwargs

    with pytest.raises(StoppedError):
        draw(pipe, prompt="a dog", callback_on_step_end=interrupt)
    assert apart(draw(pipe, prompt="a cat"), fresh(prompt="a cat")) == 0


def test_a_text_that_changes_amid_the_steps_is_matched_anew() -> None:
    pipe = merging(tiny.stable_diffusion(), every=STEPS)

    def change(_: Any, step: int, __: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            kwargs["prompt_embeds"] = kwargs["prompt_embeds"].flip(0)
        return kwargs

    draw(
        pipe,
        callback_on_step_end=change,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    assert record(pipe).ran["unet merged by a new map"] == 2 * 3


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux])
def test_all_is_taken_back(make: Any) -> None:
    pipe = make()
    plain, before = draw(pipe), tiny.snapshot(pipe)
    merging(pipe)
    assert apart(draw(pipe), plain) > 0
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert apart(draw(pipe), plain) == 0


def test_a_copy_of_the_denoiser_keeps_no_maps() -> None:
    pipe = merging(tiny.stable_diffusion())
    draw(pipe)
    copied = copy.deepcopy(pipe.unet)
    sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 32)
    with torch.no_grad():
        assert torch.equal(copied(sample, 5, text).sample, pipe.unet(sample, 5, text).sample)
