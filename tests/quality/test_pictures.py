"""PSNR and SSIM against values worked out by hand."""

from __future__ import annotations

import math
from types import ModuleType

import numpy
import pytest

from sdaccel.errors import MetricError
from sdaccel.quality import psnr, ssim


def _noise(*shape: int) -> numpy.ndarray:
    return numpy.random.default_rng(0).random(shape)


def test_psnr_of_a_constant_error_is_its_decibels() -> None:
    picture = numpy.full((16, 16, 3), 0.5)
    assert psnr(picture, picture + 0.1) == pytest.approx(20.0)
    assert psnr(picture, picture + 0.01) == pytest.approx(40.0)


def test_psnr_counts_bytes_against_255() -> None:
    black, white = (numpy.full((16, 16, 3), value, numpy.uint8) for value in (0, 255))
    assert psnr(black, white) == pytest.approx(0.0)
    assert psnr(black, black + 1) == pytest.approx(20 * math.log10(255))


def test_psnr_of_a_clip_is_of_all_its_frames_together() -> None:
    clip = numpy.full((4, 8, 8, 3), 0.5)
    changed = clip.copy()
    changed[0] += 0.2
    assert psnr(clip, changed) == pytest.approx(20.0)


def test_equal_pictures_have_infinite_psnr_and_ssim_1() -> None:
    picture = _noise(20, 24, 3)
    assert psnr(picture, picture.copy()) == math.inf
    assert ssim(picture, picture.copy()) == pytest.approx(1.0)


def test_ssim_of_two_flat_pictures_is_the_luminance_term() -> None:
    a, b = 0.2, 0.7
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    found = ssim(numpy.full((16, 16), a), numpy.full((16, 16), b))
    assert found == pytest.approx(expected, abs=1e-4)


def test_ssim_is_the_papers_formula_in_every_window_of_the_mirrored_picture() -> None:
    a, b = _noise(2, 12, 13)
    line = numpy.array([math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)])
    weights = numpy.outer(line, line) / numpy.outer(line, line).sum()
    first, second = (numpy.pad(each, 5, mode="reflect") for each in (a, b))
    found = []
    for row, column in numpy.ndindex(a.shape):
        x, y = (each[row : row + 11, column : column + 11] for each in (first, second))
        mean_x, mean_y = (x * weights).sum(), (y * weights).sum()
        var_x, var_y = ((x - mean_x) ** 2 * weights).sum(), ((y - mean_y) ** 2 * weights).sum()
        covariance = ((x - mean_x) * (y - mean_y) * weights).sum()
        luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        found.append(luminance * (2 * covariance + 9e-4) / (var_x + var_y + 9e-4))
    assert ssim(a, b) == pytest.approx(numpy.mean(found), abs=1e-5)


def test_ssim_of_a_clip_is_the_mean_over_its_frames() -> None:
    a, b = _noise(2, 3, 12, 12, 3)
    assert ssim(a, b) == pytest.approx(numpy.mean([ssim(*pair) for pair in zip(a, b, strict=True)]))


def test_ssim_is_negative_for_the_negative_of_a_pattern_and_falls_with_noise() -> None:
    picture = _noise(32, 32, 3)
    slight = numpy.clip(picture + 0.02 * (_noise(32, 32, 3)[::-1] - 0.5), 0, 1)
    assert ssim(picture, 1 - picture) < 0
    assert ssim(picture, _noise(32, 32, 3)[::-1]) < 0.2 < 0.9 < ssim(picture, slight) < 1


def test_pictures_of_other_sizes_and_too_small_ones_are_refused() -> None:
    with pytest.raises(MetricError, match="differ in size"):
        psnr(_noise(16, 16), _noise(16, 17))
    with pytest.raises(MetricError, match="at least 11x11"):
        ssim(_noise(10, 16), _noise(10, 16))
    with pytest.raises(MetricError, match="A picture is"):
        psnr(_noise(16), _noise(16))


def test_without_torchmetrics_ssim_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> ModuleType | None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", nothing)
    with pytest.raises(MetricError, match=r'pip install "sdaccel\[quality\]"'):
        ssim(_noise(16, 16), _noise(16, 16))
