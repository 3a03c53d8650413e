"""Which steps are computed in full for a new text, and what of another picture is never kept."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from caching import STEPS, another_text, apart, cached, draw, flux, ran, texts
from diffusers import StableDiffusionImg2ImgPipeline

OPTIONS: dict[str, Any] = {"interval": 3, "forecast": 1}


class StoppedError(Exception):
    pass


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_interruption_within_a_call_leaves_nothing_half_kept() -> None:
    pipe = cached(flux(), **OPTIONS)
    last = pipe.transformer.single_transformer_blocks[2]

    def fail(*_: Any) -> None:
        raise StoppedError

    handle = last.register_forward_pre_hook(fail)
    with pytest.raises(StoppedError):
        draw(pipe)
    handle.remove()
    assert apart(draw(pipe), draw(cached(flux(), **OPTIONS))) == 0


def test_a_text_that_changes_amid_the_steps_is_computed_in_full() -> None:
    pipe = cached(tiny.stable_diffusion(), **OPTIONS)
    draw(pipe, **another_text(after=2))
    # full by schedule: 0, 1, 4, 7, 10, 11; and step 3 for the new text
    assert ran(pipe)["unet full"] == 7


def test_a_text_made_anew_at_every_step_is_never_taken_for_the_same() -> None:
    pipe = cached(tiny.stable_diffusion(), **OPTIONS)
    draw(pipe, **texts(lambda _, __, embeds: embeds.clone()))
    assert ran(pipe)["unet full"] == STEPS


def test_guidance_that_ends_amid_the_steps_starts_anew() -> None:
    """The unconditional call falls away, or the batch is halved."""
    pipe = cached(tiny.stable_diffusion(), **OPTIONS)

    def end(pipe: Any, step: int, embeds: Any) -> Any:
        if step != 2:
            return embeds
        pipe._guidance_scale = 0.0
        return embeds[1:]

    draw(pipe, **texts(end))
    assert ran(pipe)["unet full"] == 7


def test_the_two_calls_of_sequential_guidance_are_kept_apart() -> None:
    """Guided by a text that is the same, both calls are one: else each would get the other's."""
    random = torch.Generator().manual_seed(4)
    text, pooled = (torch.randn(*shape, generator=random) for shape in ((1, 8, 32), (1, 32)))
    same = {"negative_prompt_embeds": text.clone(), "negative_pooled_prompt_embeds": pooled.clone()}
    guided = draw(cached(flux(), **OPTIONS), **same)
    alone = draw(cached(flux(), **OPTIONS), true_cfg_scale=1.0)
    assert apart(guided, alone) < 1e-5


def test_img2img_counts_the_steps_that_it_makes() -> None:
    parts = tiny.stable_diffusion().components
    pipe = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    picture = torch.rand(1, 3, 16, 16, generator=seeded(3))
    cached(pipe, interval=4, forecast=0)
    pipe("a cat", image=picture, strength=0.5, num_inference_steps=24, generator=seeded(0))
    # 12 of the 24 steps: 0, 4, 8 and the last
    assert ran(pipe)["unet full"] == 4
    assert ran(pipe)["unet shallow"] == STEPS - 4


def test_what_was_kept_is_let_go_when_the_pipe_is_done() -> None:
    pipe = cached(flux(), **OPTIONS)
    block = pipe.transformer.single_transformer_blocks[1]
    held = []

    def note(_: Any, step: int, __: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        held.append(block.forward._cache.nbytes)
        return kwargs

    draw(pipe, callback_on_step_end=note)
    assert max(held) == ran(pipe)["transformer bytes kept at most"] > 0
    assert block.forward._cache.nbytes == 0
