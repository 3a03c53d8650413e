"""Drawing with a pipe: its own check's sentence is kept, and so is its progress bar."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import tiny
import torch
from PIL import Image

from sdaccel.cli.drawing import draw, warm_up
from sdaccel.cli.request import Request
from sdaccel.errors import InputError, SdaccelWarning


class Pipe:
    """A pipeline that checks its inputs and then fails."""

    vae_scale_factor = 8

    def __call__(
        self, prompt: str, num_inference_steps: int, generator: Any, output_type: str
    ) -> None:
        self.check_inputs(prompt)
        raise ValueError("the computation failed")

    def check_inputs(self, prompt: str) -> None:
        if prompt == "a dog":
            raise ValueError("no dogs")

    def set_progress_bar_config(self, **config: Any) -> None:
        self._progress_bar_config = config


def test_what_the_pipeline_checks_is_bad_input_and_what_it_computes_is_not() -> None:
    with pytest.raises(InputError, match="Pipe refuses this: no dogs"):
        draw(Pipe(), Request("a dog"), "drawing")
    with pytest.raises(ValueError, match="the computation failed"):
        draw(Pipe(), Request("a cat"), "drawing")


class Video:
    """A pipeline that gives its clip in a form of its own."""

    def __init__(self, **output: Any) -> None:
        self.output = SimpleNamespace(**output)

    def __call__(
        self, prompt: str, num_inference_steps: int, generator: Any, output_type: str, num_frames=3
    ) -> Any:
        return self.output

    def set_progress_bar_config(self, **config: Any) -> None:
        self._progress_bar_config = config


def test_clips_in_any_form_become_lists_of_pictures() -> None:
    frames = numpy.random.default_rng(0).integers(0, 256, (3, 4, 6, 3)).astype(numpy.uint8)
    pictures = [Image.fromarray(each) for each in frames]
    floats = frames / 255
    tensor = torch.from_numpy(floats).permute(0, 3, 1, 2)
    for form, clips in (
        ([pictures, pictures], 2),  # a batch as Wan, CogVideoX and AnimateDiff give it
        (numpy.stack([floats, floats]), 2),
        ([floats], 1),
        (torch.stack([tensor]), 1),
        (pictures, 1),  # one clip alone
        (floats, 1),
    ):
        drawn, _ = draw(Video(frames=form), Request("a cat"), None)
        assert len(drawn) == clips
        for clip in drawn:
            assert (numpy.stack(clip) == frames).all()
    for place in ("images", "video"):  # Text2Video-Zero, Cosmos 3
        drawn, _ = draw(Video(**{place: floats}), Request("a cat"), None)
        assert (numpy.stack(drawn[0]) == frames).all()


def test_a_sound_that_is_not_written_is_told() -> None:
    frames = [Image.new("RGB", (8, 8))]
    with pytest.warns(SdaccelWarning, match="The clip's sound is not written"):
        draw(Video(frames=[frames], audio=torch.zeros(1, 2, 8)), Request("a cat"), None)
    draw(Video(frames=[frames], audio=None), Request("a cat"), None)


def test_the_progress_bar_is_left_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tiny.stable_diffusion()
    del pipe._progress_bar_config
    draw(pipe, Request("a cat", steps=1), "stock")
    assert "stock:" in capsys.readouterr().err
    warm_up(pipe, Request("a cat", steps=1))
    assert not hasattr(pipe, "_progress_bar_config")
    pipe.set_progress_bar_config(disable=True)
    draw(pipe, Request("a cat", steps=1), "stock")
    assert pipe._progress_bar_config == {"disable": True}
    assert capsys.readouterr().err == ""


def test_a_warm_up_takes_few_steps() -> None:
    pipe = tiny.stable_diffusion()
    steps = []
    forward = pipe.unet.forward
    pipe.unet.forward = lambda *args, **kwargs: (steps.append(1), forward(*args, **kwargs))[1]
    warm_up(pipe, Request("a cat", steps=30))
    assert len(steps) == 2
