"""Nothing that a pass keeps for one picture ever serves another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from caching import apart, cached, draw
from diffusers import StableDiffusionPipeline
from merging import merging


class StoppedError(Exception):
    pass


def skipping(pipe: Any) -> Any:
    return cached(pipe, interval=3, forecast=1)


def leaving_out(pipe: Any) -> Any:
    return cached(pipe, interval=3, forecast=1, skip="whole")


Keeps = Callable[[Any], Any]
"""Puts the pass on a pipe."""

pytestmark = pytest.mark.parametrize("keeps", [skipping, leaving_out, merging])


def fresh(keeps: Keeps, **changes: Any) -> Any:
    """What a pipe of its own draws."""
    return draw(keeps(tiny.stable_diffusion()), **changes)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pictures_one_after_the_other_are_those_of_pipes_of_their_own(keeps: Keeps) -> None:
    pipe = keeps(tiny.stable_diffusion())
    requests: list[dict[str, Any]] = [
        {"prompt": "a cat"},
        {"prompt": "a dog", "generator": seeded(7)},
        {"prompt": ["a cat", "a dog"]},
        {"prompt": "a cat", "height": 24, "width": 16},
        {"prompt": "a cat", "guidance_scale": 1.0},
        {"prompt": "a cat", "num_inference_steps": 15},
        {"prompt": "a cat"},
    ]
    found = [draw(pipe, **each) for each in requests]
    requests[1]["generator"] = seeded(7)
    for each, picture in zip(requests, found, strict=True):
        assert apart(picture, fresh(keeps, **each)) == 0


def drawing_amid(outer: StableDiffusionPipeline, inner: StableDiffusionPipeline) -> list[Any]:
    """What the outer one draws, then what the inner one draws amid its first and fifth step."""
    amid = []

    def interrupt(_: Any, step: int, __: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step in (0, 4):
            amid.append(draw(inner, prompt="a dog"))
        return kwargs

    return [draw(outer, prompt="a cat", callback_on_step_end=interrupt), *amid]


def test_a_pipe_that_draws_amid_another_s_steps_changes_nothing(keeps: Keeps) -> None:
    outer, inner = (keeps(tiny.stable_diffusion()) for _ in range(2))
    wanted, other = (fresh(keeps, prompt=prompt) for prompt in ("a cat", "a dog"))
    found, *amid = drawing_amid(outer, inner)
    assert apart(found, wanted) == 0
    assert [apart(each, other) for each in amid] == [0, 0]


def test_nor_does_one_with_the_same_unet_and_no_pass_of_its_own(keeps: Keeps) -> None:
    """Its calls are no steps of the outer one's, so nothing of them is kept, and nothing serves."""
    outer = keeps(tiny.stable_diffusion())
    inner = tiny.stable_diffusion(unet=outer.unet)
    keeping_nothing = merging(tiny.stable_diffusion(), every=1)
    other = draw(keeping_nothing if keeps is merging else tiny.stable_diffusion(), prompt="a dog")
    found, *amid = drawing_amid(outer, inner)
    assert apart(found, fresh(keeps, prompt="a cat")) == 0
    assert [apart(each, other) for each in amid] == [0, 0]


def test_after_an_interruption_the_next_picture_starts_with_nothing(keeps: Keeps) -> None:
    pipe = keeps(tiny.stable_diffusion())

    def interrupt(_: Any, step: int, __: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 4:
            raise StoppedError
        return kwargs

    with pytest.raises(StoppedError):
        draw(pipe, prompt="a dog", callback_on_step_end=interrupt)
    assert apart(draw(pipe, prompt="a cat"), fresh(keeps, prompt="a cat")) == 0
