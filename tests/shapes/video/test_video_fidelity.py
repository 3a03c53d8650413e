from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdaccel.shapes import clip_fidelity, clip_prompts, prompt_fidelity
from sdaccel.shapes.video.grammar import parse, side_of
from sdaccel.shapes.video.models import DEFAULTS
from sdaccel.shapes.video.renderer import render_clip


class Painter:
    """Draws prompts truly, but those with a word of `wrong` as black clips."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong, self.calls, self.seeds = wrong, [], []

    def set_progress_bar_config(self, **_: Any) -> None:
        pass

    def __call__(
        self, prompts: list[str], generator: list[Any], output_type: str, **settings: Any
    ) -> Any:
        assert output_type == "np"
        self.calls.append(settings)
        self.seeds += [one.initial_seed() for one in generator]
        clips = [render_clip(parse(prompt)) / 255 for prompt in prompts]
        blacked = [self.wrong and self.wrong in prompt for prompt in prompts]
        return SimpleNamespace(
            frames=np.stack(clips) * ~np.array(blacked, bool)[:, None, None, None, None]
        )


def test_the_share_of_prompts_shown_is_counted_with_what_was_wrong() -> None:
    prompts = clip_prompts(12)
    black = [prompt for prompt in prompts if "star" in prompt]
    assert 0 < len(black) < 12
    found = clip_fidelity(Painter("star"), prompts, batch_size=5, progress=False)
    assert (found.passed, found.total) == (12 - len(black), 12)
    assert found.parts["count"] == len(black)
    assert "of 12 clips" in str(found)
    assert "motion 0" in str(found)


def test_a_pipeline_is_called_as_the_embedded_one_unless_told_otherwise() -> None:
    painter = Painter()
    clip_fidelity(painter, count=3, seed=7, batch_size=2, steps=4, progress=False)
    assert painter.calls == [{**DEFAULTS, "num_inference_steps": 4}] * 2
    assert painter.seeds == [7, 8, 9]
    painter = Painter()
    clip_fidelity(painter, count=1, guidance_scale=2.0, progress=False)
    assert painter.calls == [{**DEFAULTS, "guidance_scale": 2.0}]


def test_prompts_come_from_the_side_that_is_asked_for() -> None:
    for side in ("held-out", "evaluation"):
        prompts = clip_prompts(20, side)
        assert len(set(prompts)) == 20
        assert {side_of(prompt) for prompt in prompts} == {side}
        assert clip_prompts(5, side) == prompts[:5]


def test_no_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        clip_fidelity(Painter(), [])


def test_prompt_fidelity_judges_clips_when_frames_are_asked_for() -> None:
    painter = Painter()
    found = prompt_fidelity(painter, count=4, batch_size=3, progress=False, **DEFAULTS)
    assert found == clip_fidelity(Painter(), count=4, progress=False)
    assert painter.calls == [DEFAULTS] * 2
