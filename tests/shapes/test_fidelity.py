from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdaccel.shapes.fidelity import (
    Fidelity,
    evaluation_prompts,
    held_out_prompts,
    prompt_fidelity,
)
from sdaccel.shapes.grammar import parse, side_of
from sdaccel.shapes.renderer import render


class Painter:
    """Stands in for a pipeline: draws each prompt, or another scene when it is in `wrong`."""

    def __init__(self, wrong: dict[str, str]) -> None:
        self.wrong, self.seeds, self._progress_bar_config = wrong, [], {"desc": "mine"}

    def set_progress_bar_config(self, **config: Any) -> None:
        self._progress_bar_config = config

    def __call__(self, prompts: list[str], *, generator: list[Any], **settings: Any) -> Any:
        self.seeds += [one.initial_seed() for one in generator]
        self.settings = settings
        told = [self.wrong.get(prompt, prompt) for prompt in prompts]
        return SimpleNamespace(images=np.stack([render(parse(prompt)) for prompt in told]) / 255)


def test_both_lists_of_prompts_are_fixed_distinct_and_each_from_its_own_side() -> None:
    for prompts_of, side in ((held_out_prompts, "held-out"), (evaluation_prompts, "evaluation")):
        prompts = prompts_of(60)
        assert prompts[:20] == prompts_of(20)
        assert len(set(prompts)) == 60
        assert {side_of(prompt) for prompt in prompts} == {side}


def test_the_share_counts_right_pictures_and_the_parts_count_wrong_ones() -> None:
    asked = "a small red star above a large blue ring on a white background"
    drawn = "a small red star below a large blue ring on a black background"
    painter = Painter({asked: drawn})
    found = prompt_fidelity(painter, [asked, *held_out_prompts(11)], batch_size=5, progress=False)
    assert (found.passed, found.total) == (11, 12)
    assert {part for part, count in found.parts.items() if count} == {"background", "relation"}
    assert painter.seeds == list(range(12))
    assert painter.settings["num_inference_steps"] == 25


def test_a_pipelines_own_keywords_reach_its_call_and_the_steps_go_before_them() -> None:
    painter = Painter({})
    own = {"num_inference_steps": 9, "true_cfg_scale": 2.0, "negative_prompt": ""}
    prompt_fidelity(painter, count=3, progress=False, **own)
    assert painter.settings["num_inference_steps"] == 9
    assert painter.settings["true_cfg_scale"] == 2.0
    assert painter.settings["negative_prompt"] == ["", "", ""]
    prompt_fidelity(painter, count=3, steps=4, progress=False, **own)
    assert painter.settings["num_inference_steps"] == 4


def test_the_pipelines_own_progress_bar_settings_come_back() -> None:
    painter = Painter({})
    prompt_fidelity(painter, count=2, progress=False)
    assert painter._progress_bar_config == {"desc": "mine"}


def test_the_interval_is_wilsons() -> None:
    found = Fidelity(300, 500)
    assert found.share == 0.6
    assert (found.low, found.high) == (
        pytest.approx(0.5565, abs=5e-4),
        pytest.approx(0.6421, abs=5e-4),
    )
    assert Fidelity(0, 10).low == pytest.approx(0)
    assert Fidelity(10, 10).high == pytest.approx(1)
    assert "60.0% (300 of 500 pictures, 95% interval 55.6% to 64.2%)" in str(found)


def test_no_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        prompt_fidelity(Painter({}), [])
