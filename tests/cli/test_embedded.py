"""The embedded models' own prompts and checkers: pictures' or clips', as the model draws."""

from __future__ import annotations

from typing import Any

import pytest

from sdaccel import shapes
from sdaccel.cli import embedded, models
from sdaccel.shapes.video.grammar import parse


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model that is called for clips."""
    usual = models.call_defaults
    monkeypatch.setattr(
        models,
        "call_defaults",
        lambda model: {"num_frames": 17} if model == "shapes-clips" else usual(model),
    )
    return "shapes-clips"


@pytest.mark.parametrize("evaluation", [False, True])
def test_prompts_are_those_of_what_the_model_draws(clips: str, evaluation: bool) -> None:
    side: Any = "evaluation" if evaluation else "held-out"
    pictures = shapes.evaluation_prompts(3) if evaluation else shapes.held_out_prompts(3)
    assert embedded.prompts("shapes-unet", 3, evaluation) == pictures
    assert embedded.prompts("shapes-dit", 3, evaluation) == pictures
    assert embedded.prompts(clips, 3, evaluation) == shapes.clip_prompts(3, side)


def test_each_kind_is_checked_by_its_own_checker(clips: str) -> None:
    prompt = "a red circle moves left above a still green square"
    clip = shapes.render_clip(parse(prompt), 0)
    assert embedded.shows(clips)(clip, prompt)
    assert not embedded.shows(clips)(clip[:, :, ::-1], prompt)
    prompt = "a large red circle above a small blue square on a green background"
    picture = shapes.render(shapes.parse(prompt), 0)
    assert embedded.shows("shapes-dit")(picture, prompt)
    assert not embedded.shows("shapes-dit")(picture[::-1], prompt)
