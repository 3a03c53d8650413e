"""--compare draws both from the same noise and shows them side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny
from PIL import Image

from sdaccel.cli.comparison import Comparison
from sdaccel.cli.sheet import Row, compose, difference
from sdaccel.report import Report

_MARGIN = 16


def _picture(seed: int, size: tuple[int, int] = (320, 320)) -> Image.Image:
    values = numpy.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(values.astype(numpy.uint8))


def _panel(sheet: Image.Image, index: int, side: int = 320) -> numpy.ndarray:
    """A panel of the first row, found from below: the captions are two lines of fixed height."""
    left = _MARGIN + index * (side + _MARGIN)
    top = next(y for y in range(_MARGIN + 40, sheet.height) if _is_filled(sheet, left, y, side))
    return numpy.asarray(sheet.crop((left, top, left + side, top + side)))


def _is_filled(sheet: Image.Image, left: int, y: int, side: int) -> bool:
    line = numpy.asarray(sheet.crop((left, y, left + side, y + 1)))
    return bool((line != 255).any(axis=-1).mean() > 0.8)


def test_the_panels_are_the_pictures_and_their_difference() -> None:
    a = _picture(0)
    b = Image.fromarray(numpy.clip(numpy.asarray(a).astype(int) + 2, 0, 255).astype(numpy.uint8))
    sheet = compose([Row((a, b), ("stock", "plan"), "PSNR")], '"a cat"')
    assert (_panel(sheet, 0) == numpy.asarray(a)).all()
    assert (_panel(sheet, 1) == numpy.asarray(b)).all()
    expected = numpy.abs(numpy.asarray(a).astype(int) - numpy.asarray(b)) * 100
    assert (_panel(sheet, 2) == expected).all()


def test_small_pictures_are_enlarged_pixel_by_pixel_and_rows_stacked() -> None:
    a, b = _picture(0, (16, 16)), _picture(1, (16, 16))
    row = Row((a, b), ("stock", "plan"), "PSNR")
    sheet = compose([row, row], "a heading " * 40)
    assert (_panel(sheet, 1) == numpy.asarray(b).repeat(20, 0).repeat(20, 1)).all()
    assert sheet.width == 3 * 320 + 4 * _MARGIN
    assert sheet.height > 2 * 320 + 3 * 40


def test_a_difference_is_amplified_as_far_as_nothing_saturates() -> None:
    grey = Image.new("RGB", (16, 16), (100, 100, 100))
    for step, gain in ((0, 100), (1, 100), (3, 50), (20, 10), (155, 1)):
        other = Image.new("RGB", (16, 16), (100 + step,) * 3)
        image, amplified = difference(grey, other)
        assert amplified == gain
        assert image.getpixel((0, 0)) == (step * gain,) * 3


def _comparison(stock: float, fast: float, set_up: float) -> Comparison:
    picture = _picture(0, (16, 16))
    report = Report("Pipe", "eager", "cpu", [], Report.no_calls(), 0)
    return Comparison("eager", [picture], [picture], [stock] * 3, [9.0, fast, 0.1], set_up, report)


def test_speed_up_is_of_medians_and_the_set_up_is_told_apart() -> None:
    comparison = _comparison(stock=3.0, fast=1.0, set_up=7.0)
    assert comparison.speed_up == pytest.approx(3.0)
    assert comparison.break_even == 4
    said = " ".join(comparison.sentences())
    assert "took 7.0 s once, won back with drawing 4" in said
    assert "identical" in said


def test_a_plan_that_is_slower_never_wins_its_set_up_back() -> None:
    comparison = _comparison(stock=1.0, fast=2.0, set_up=7.0)
    assert comparison.break_even is None
    assert "not won back" in " ".join(comparison.sentences())


def test_identical_pictures_have_no_psnr_in_json() -> None:
    (found,) = _comparison(1.0, 1.0, 0.0).to_dict()["quality"]
    assert found == {"identical": True, "psnr": None, "ssim": pytest.approx(1.0)}


def test_without_torchmetrics_there_is_no_ssim_and_all_else_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    comparison = _comparison(1.0, 1.0, 0.0)
    assert comparison.qualities() == [(math.inf, None)]
    assert comparison.to_dict()["quality"][0]["ssim"] is None


def test_compare_draws_both_and_measures_them(run: Any, model: str, tmp_path: Path) -> None:
    words = ("generate", "a cat", "--model", model, "--plan", "eager", "--steps", "2")
    outcome = run(*words, "--compare", "--rounds", "2", "--json")
    assert outcome.code == 0
    found = outcome.json
    assert found["pictures"] == [str(tmp_path / "sdaccel-compare.png")]
    assert len(found["stock_seconds"]) == len(found["accelerated_seconds"]) == 2
    assert found["quality"][0]["identical"] or found["quality"][0]["psnr"] > 45
    assert found["report"]["calls"]["unet"] == 2 * 3
    shown = _panel(Image.open(found["pictures"][0]), 0)[10::20, 10::20]
    assert abs(shown / 255 - tiny.draw(tiny.stable_diffusion())[0]).max() < 1 / 255
    again = run(*words, "--compare", "--rounds", "1", "-o", "both.png")
    assert str(tmp_path / "both.png") in again.out
    assert "as fast" in again.out
