"""PSNR and SSIM against values worked out by hand."""

from __future__ import annotations

import math

import numpy
import pytest

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


def test_equal_pictures_have_infinite_psnr_and_ssim_1() -> None:
    picture = _noise(20, 24, 3)
    assert psnr(picture, picture.copy()) == math.inf
    assert ssim(picture, picture.copy()) == pytest.approx(1.0)


def test_ssim_of_two_flat_pictures_is_the_luminance_term() -> None:
    a, b = 0.2, 0.7
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(numpy.full((16, 16), a), numpy.full((16, 16), b)) == pytest.approx(expected)


def test_ssim_of_one_window_is_the_formula_with_gaussian_weights() -> None:
    a, b = _noise(2, 11, 11)
    line = numpy.array([math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)])
    weights = numpy.outer(line, line) / numpy.outer(line, line).sum()
    mean_a, mean_b = (a * weights).sum(), (b * weights).sum()
    var_a, var_b = ((a - mean_a) ** 2 * weights).sum(), ((b - mean_b) ** 2 * weights).sum()
    covariance = ((a - mean_a) * (b - mean_b) * weights).sum()
    expected = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    expected *= (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
    assert ssim(a, b) == pytest.approx(expected)


def test_ssim_is_negative_for_the_negative_of_a_pattern_and_falls_with_noise() -> None:
    picture = _noise(32, 32, 3)
    slight = numpy.clip(picture + 0.02 * (_noise(32, 32, 3)[::-1] - 0.5), 0, 1)
    assert ssim(picture, 1 - picture) < 0
    assert ssim(picture, _noise(32, 32, 3)[::-1]) < 0.2 < 0.9 < ssim(picture, slight) < 1


def test_pictures_of_other_sizes_and_too_small_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        psnr(_noise(16, 16), _noise(16, 17))
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(_noise(10, 16), _noise(10, 16))
