"""A gate lets good pictures through, and no fault: whatever it measures, whoever shares it."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch

from sdaccel.errors import MetricError
from sdaccel.quality.comparing import Comparison, Pair, compare
from sdaccel.quality.gates import GATES, Gate, Limit, gate_for
from sdaccel.quality.metrics import (
    CLIP_SCORE,
    FIDELITY,
    PSNR,
    Drawing,
    Metric,
    metrics,
    prompt_fidelity,
)
from sdaccel.shapes.grammar import Scene
from sdaccel.shapes.renderer import render

BLIND = {
    "fidelity alone": Gate("fidelity alone", (Limit(FIDELITY, "mean", least=0, needed=True),)),
    "CLIP score alone": Gate("CLIP", (Limit(CLIP_SCORE, "mean", least=-1, needed=True),)),
    "nothing": Gate("nothing", ()),
}
EVERY_GATE = {**GATES, **BLIND}
SCENES = [Scene.sample(numpy.random.default_rng(index)) for index in range(3)]


def _good(clip: bool, nudge: float = 0.0) -> list[Any]:
    """What a model draws of the scenes, as floats: pictures, or clips that slowly brighten."""
    pictures = [render(scene, index) / 255 * 0.9 + nudge for index, scene in enumerate(SCENES)]
    if not clip:
        return pictures
    light = numpy.linspace(0, 0.05, 4)[:, None, None, None]
    return [picture[None] + light for picture in pictures]


def _broken(like: numpy.ndarray, kind: str) -> numpy.ndarray:
    if kind in ("NaN", "Inf"):
        bad = like.copy()
        bad[..., 5, 5, 0] = math.nan if kind == "NaN" else math.inf
        return bad
    if kind == "black":
        return numpy.zeros_like(like)
    return numpy.random.default_rng(0).random(like.shape)


def _compare(first: list[Any], second: list[Any], clip: bool) -> Comparison:
    """By distances, by a fidelity that sees nothing wrong, and by a CLIP score that likes all."""
    content = Metric(CLIP_SCORE, "", True, lambda: lambda *_: 30.0, of_one=True)
    fidelity = Metric(FIDELITY, "", True, lambda: lambda *_: 1.0, of_one=True)
    pairs = [
        Pair(scene.prompt, Drawing(a), Drawing(b))
        for scene, a, b in zip(SCENES, first, second, strict=True)
    ]
    return compare(pairs, [*metrics(clips=clip), fidelity, content])


@pytest.fixture(scope="module", params=[False, True], ids=["pictures", "clips"])
def clip(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("name", EVERY_GATE)
def test_pictures_that_hardly_differ_pass(name: str, clip: bool) -> None:
    verdict = EVERY_GATE[name].judge(_compare(_good(clip), _good(clip, nudge=1e-4), clip))
    assert verdict.passed, verdict.reasons


@pytest.mark.parametrize("kind", ["black", "NaN", "Inf", "noise"])
@pytest.mark.parametrize("where", ["second", "first", "both"])
def test_a_black_a_noisy_or_an_infinite_picture_fails_every_gate(
    kind: str, where: str, clip: bool
) -> None:
    first, second = _good(clip), _good(clip)
    for side, drawings in (("first", first), ("second", second)):
        if where in (side, "both"):
            drawings[1] = _broken(drawings[1], kind)
    comparison = _compare(first, second, clip)
    for name, gate in EVERY_GATE.items():
        verdict = gate.judge(comparison)
        assert not verdict.passed, name
        assert any(SCENES[1].prompt in reason for reason in verdict.reasons)


def test_latents_with_nan_fail_every_gate_though_the_picture_looks_right() -> None:
    picture, latents = _good(False)[0], torch.ones(4, 4)
    bad = Drawing(picture, torch.full((4, 4), math.nan))
    comparison = compare([Pair("a", Drawing(picture, latents), bad)], metrics(clips=False))
    for gate in EVERY_GATE.values():
        assert any("latents" in reason for reason in gate.judge(comparison).reasons)


@pytest.mark.parametrize(
    ("effect", "sixteen_bit", "error", "passes"),
    [
        ("exact", False, 0.0009, True),  # 60.9 dB
        ("exact", False, 0.0012, False),  # 58.4 dB
        ("exact", True, 0.0055, True),  # 45.2 dB
        ("exact", True, 0.0058, False),  # 44.7 dB
        ("lower precision", False, 0.03, True),  # 30.5 dB
        ("lower precision", True, 0.033, False),  # 29.6 dB
        ("approximate", False, 0.095, True),  # 20.4 dB
        ("approximate", False, 0.105, False),  # 19.6 dB
    ],
)
def test_each_effect_has_its_own_limit_of_psnr(
    effect: str, sixteen_bit: bool, error: float, passes: bool
) -> None:
    comparison = _compare(_good(False), _good(False, nudge=error), clip=False)
    verdict = gate_for(effect, sixteen_bit).judge(comparison)
    assert all(each.passed == passes for each in verdict.of_metric(PSNR))
    assert verdict.passed == passes


def test_for_an_exact_plan_one_bad_pair_is_enough_and_no_mean_hides_it() -> None:
    second = _good(False)
    second[2] = second[2] + 0.05
    comparison = _compare(_good(False), second, clip=False)
    assert not GATES["exact"].judge(comparison).passed
    assert GATES["approximate"].judge(comparison).passed


def test_a_frozen_and_a_flickering_clip_fail_though_their_frames_are_close() -> None:
    moving = _good(clip=True)
    frozen = [numpy.repeat(each[:1], len(each), 0) for each in moving]
    flicker = 0.03 * (numpy.arange(4) % 2)[:, None, None, None]
    for other, says in ((frozen, "motion kept"), ([each + flicker for each in moving], "flicker")):
        for name in ("lower precision", "approximate"):
            reasons = GATES[name].judge(_compare(moving, other, clip=True)).reasons
            assert any(says in reason for reason in reasons), name


def test_pictures_that_lose_what_the_prompt_says_fail_and_the_reason_names_the_number() -> None:
    lost = {SCENES[0].prompt}
    pairs = [
        Pair(scene.prompt, Drawing(picture), Drawing(picture.copy()))
        for scene, picture in zip(SCENES, _good(False), strict=True)
    ]
    seconds = {id(pair.second.pixels) for pair in pairs if pair.prompt in lost}
    fidelity = prompt_fidelity(lambda pixels, _: id(pixels) not in seconds)
    comparison = compare(pairs, [*metrics(clips=False), fidelity])
    for gate in GATES.values():
        assert any("prompt fidelity is -" in reason for reason in gate.judge(comparison).reasons)


def test_what_a_gate_needs_and_nobody_measured_fails_it() -> None:
    def refuse() -> Any:
        raise MetricError("no PSNR today")

    good = Drawing(_good(False)[0])
    comparison = compare([Pair("a", good, good)], [Metric(PSNR, "dB", True, refuse)])
    assert comparison.skipped == {PSNR: "no PSNR today"}
    for gate in GATES.values():
        assert any("was not measured" in reason for reason in gate.judge(comparison).reasons)


def test_a_verdict_is_plain_in_json() -> None:
    verdict = GATES["exact"].judge(_compare(_good(False), _good(False), clip=False))
    assert verdict.to_dict() == {
        "gate": "exact",
        "passed": True,
        "reasons": [],
        "limits": ["worst PSNR 60 or more", "worst prompt fidelity 0 or more"],
    }
