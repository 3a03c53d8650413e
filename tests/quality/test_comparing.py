from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch

from sdaccel.quality.comparing import Pair, compare
from sdaccel.quality.metrics import (
    FIDELITY,
    LATENTS,
    MOTION_ERROR,
    PSNR,
    SSIM,
    Drawing,
    Metric,
    metrics,
    prompt_fidelity,
)
from sdaccel.shapes import check
from sdaccel.shapes.grammar import parse
from sdaccel.shapes.renderer import render

RED = "a large red circle on a green background"
BLUE = "a large blue square on a white background"


def _shows(pixels: Any, prompt: str) -> bool:
    return bool(check(pixels, prompt).passed)


def _pair(prompt: str, first: str, second: str, error: float = 0.0) -> Pair:
    drawn = [render(parse(each)) / 255 for each in (first, second)]
    return Pair(prompt, Drawing(drawn[0]), Drawing(numpy.clip(drawn[1] + error, 0, 1)))


def test_every_metric_is_measured_pair_by_pair_in_order() -> None:
    pairs = [_pair(RED, RED, RED), _pair(BLUE, BLUE, BLUE, error=-0.05)]
    heard: list[str] = []
    found = compare(pairs, metrics(clips=False), heard.append)
    assert found.prompts == (RED, BLUE)
    assert found.measured[PSNR].values == (math.inf, pytest.approx(26.02, abs=0.05))
    assert found.measured[PSNR].summary.worst_at == 1
    assert found.measured[SSIM].values[0] == pytest.approx(1)
    assert heard[: len(metrics(clips=False))] == [each.name for each in metrics(clips=False)]
    assert not found.faults


def test_a_score_is_the_change_of_each_pair_and_keeps_both_sides() -> None:
    pairs = [_pair(RED, RED, RED), _pair(BLUE, BLUE, RED), _pair(RED, BLUE, RED)]
    measured = compare(pairs, [prompt_fidelity(_shows)]).measured[FIDELITY]
    assert measured.scores == ((1, 1, 0), (1, 0, 1))
    assert measured.values == (0, -1, 1)
    assert (measured.summary.mean, measured.summary.worst_at) == (0, 1)
    assert measured.means() == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_a_prompt_outside_the_grammar_counts_nowhere_and_is_told() -> None:
    pairs = [_pair("a cat", RED, RED), _pair(BLUE, BLUE, RED)]
    measured = compare(pairs, [prompt_fidelity(_shows)]).measured[FIDELITY]
    assert measured.values == (None, -1)
    assert (measured.unjudged, measured.summary.count, measured.summary.worst_at) == (1, 1, 1)
    found = compare(pairs[:1], [prompt_fidelity(_shows)])
    assert not found.measured
    assert "None of these prompts" in found.skipped[FIDELITY]


def test_latents_are_compared_where_the_pipeline_hands_them_out() -> None:
    picture, latents = render(parse(RED)) / 255, torch.ones(4, 8, 8)
    pair = Pair(RED, Drawing(picture, latents), Drawing(picture, latents * 1.25))
    assert compare([pair], metrics(clips=False)).measured[LATENTS].values == (0.25,)
    without = compare([_pair(RED, RED, RED)], metrics(clips=False))
    assert "callback_on_step_end" in without.skipped[LATENTS]


def test_nan_gives_nan_and_shows_nothing_and_is_a_fault() -> None:
    pair = _pair(RED, RED, RED)
    pair.second.pixels[0, 0, 0] = math.nan
    learned = Metric("liking", "", True, lambda: lambda *_: 1.0, of_one=True)
    found = compare([pair], [*metrics(clips=False), prompt_fidelity(_shows), learned])
    assert math.isnan(found.measured[PSNR].values[0] or 0)
    assert math.isnan(found.measured[SSIM].values[0] or 0)
    assert found.measured[FIDELITY].values == (-1,)
    assert [(each.index, each.second) for each in found.faults] == [(0, True)]


def test_clips_have_temporal_metrics_and_pictures_have_none() -> None:
    names = [[each.name for each in metrics(clips=clips)] for clips in (False, True)]
    assert MOTION_ERROR not in names[0]
    assert MOTION_ERROR in names[1]


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no pair"):
        compare([], metrics(clips=False))
