"""Batches, seeds and what comes out, with a stand-in for a pipeline and a tiny real one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import tiny
import torch

from sdaccel.cli.paired_drawing import Task
from sdaccel.cli.request import Request
from sdaccel.errors import InputError


class Painter:
    """Draws the noise that each generator gives; remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def set_progress_bar_config(self, **config: Any) -> None:
        self._progress_bar_config = config

    def __call__(
        self,
        prompt: list[str],
        num_inference_steps: int = 50,
        generator: Any = None,
        output_type: str = "pil",
        callback_on_step_end: Any = None,
    ) -> Any:
        self.batches.append(prompt)
        latents = torch.stack([torch.rand(4, 2, 2, generator=each) for each in generator])
        for step in range(num_inference_steps):
            callback_on_step_end(self, step, None, {"latents": latents + step})
        return SimpleNamespace(images=latents.permute(0, 2, 3, 1).numpy())


class Filmer(Painter):
    """The same for clips."""

    def __call__(  # type: ignore[override]
        self,
        prompt: list[str],
        num_inference_steps: int = 50,
        generator: Any = None,
        output_type: str = "pil",
        num_frames: int = 3,
    ) -> Any:
        self.batches.append(prompt)
        return SimpleNamespace(frames=numpy.zeros((len(prompt), num_frames, 2, 2, 3)))


def _task(count: int, at_once: int | None = None, **changes: Any) -> Task:
    prompts = tuple(f"prompt {index}" for index in range(count))
    return Task(prompts, Request(prompts[0], steps=2, seed=7, **changes), at_once)


def test_each_prompt_has_its_own_noise_whatever_the_batches() -> None:
    drawn = [_task(5, at_once=size).draw(Painter(), "test") for size in (1, 2, 5)]
    for other in drawn[1:]:
        for a, b in zip(drawn[0], other, strict=True):
            assert (a.pixels == b.pixels).all()
            assert torch.equal(a.latents, b.latents)
    expected = torch.rand(4, 2, 2, generator=torch.Generator().manual_seed(7 + 3)) + 1
    assert torch.equal(drawn[0][3].latents, expected)


def test_batches_are_as_equal_as_can_be_so_that_little_is_compiled_twice() -> None:
    for count, at_once, sizes in ((10, 4, [3, 3, 4]), (8, None, [4, 4]), (3, None, [3])):
        painter = Painter()
        _task(count, at_once=at_once).draw(painter, "test")
        assert [len(batch) for batch in painter.batches] == sizes
        assert [prompt for batch in painter.batches for prompt in batch] == list(
            _task(count).prompts
        )


def test_clips_are_drawn_one_by_one_and_have_no_latents_where_none_are_handed_out() -> None:
    filmer = Filmer()
    drawn = _task(2).draw(filmer, "test")
    assert [len(batch) for batch in filmer.batches] == [1, 1]
    assert drawn[0].pixels.shape == (3, 2, 2, 3)
    assert drawn[0].latents is None


def test_a_real_pipeline_gives_float_pictures_and_the_latents_they_were_decoded_from() -> None:
    pipe = tiny.stable_diffusion()
    (drawing,) = _task(1).draw(pipe, "test")
    assert drawing.pixels.shape == (16, 16, 3)
    assert drawing.pixels.dtype == numpy.float32
    with torch.no_grad():
        decoded = pipe.vae.decode(drawing.latents[None] / pipe.vae.config.scaling_factor).sample
    shown = (decoded[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    assert abs(shown - drawing.pixels).max() < 1e-5


def test_what_a_pipeline_cannot_take_is_refused_before_it_draws() -> None:
    painter = Painter()
    for changes, says in (
        ({"guidance_scale": 3.0}, "Painter takes no guidance_scale"),
        ({"num_frames": 5}, "Painter makes pictures"),
    ):
        with pytest.raises(InputError, match=says):
            _task(1, **changes).check(painter)
    assert not painter.batches


def test_a_models_own_keywords_are_given_and_a_negative_prompt_once_a_prompt() -> None:
    asked: dict[str, Any] = {}

    class Guided(Painter):
        def __call__(  # type: ignore[override]
            self,
            prompt: list[str],
            negative_prompt: Any = None,
            num_inference_steps: int = 50,
            true_cfg_scale: float = 1.0,
            generator: Any = None,
            output_type: str = "pil",
        ) -> Any:
            asked.update(negative_prompt=negative_prompt, true_cfg_scale=true_cfg_scale)
            return SimpleNamespace(images=numpy.zeros((len(prompt), 2, 2, 3)))

    defaults = {"negative_prompt": "", "true_cfg_scale": 3.0, "num_inference_steps": 9}
    _task(3, defaults=defaults).draw(Guided(), "test")
    assert asked == {"negative_prompt": ["", "", ""], "true_cfg_scale": 3.0}
