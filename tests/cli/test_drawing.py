"""Drawing with a pipe: its own check's sentence is kept, and so is its progress bar."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from sdaccel.cli.drawing import draw, warm_up
from sdaccel.cli.request import Request
from sdaccel.errors import InputError


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
