"""How far two pictures are apart: PSNR and SSIM, in numpy.

Pictures are arrays (H, W) or (H, W, C), of unsigned bytes or of floats in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

WINDOW = 11
"""The side of SSIM's window in pixels; smaller pictures have no SSIM."""
_SIGMA = 1.5
_STABILITY = (0.01**2, 0.03**2)


def psnr(a: Any, b: Any) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(1 / mean((a - b)^2)); infinite for equal pictures.

    Raises `ValueError` for pictures of different sizes.
    """
    import numpy

    first, second = _pair(a, b)
    error = float(numpy.mean((first - second) ** 2))
    return float("inf") if error == 0 else float(-10 * numpy.log10(error))


def ssim(a: Any, b: Any) -> float:
    """Mean structural similarity, 1 for equal pictures, averaged over the channels.

    Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to
    Structural Similarity" (2004): Gaussian window of 11 pixels with sigma 1.5, K1 0.01, K2 0.03,
    over the positions where the window lies inside the picture. Raises `ValueError` for pictures
    of different sizes or with a side below 11 pixels.
    """
    first, second = _pair(a, b)
    if min(first.shape[:2]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW}x{WINDOW} pixels.")
    mean_a, mean_b = _blur(first), _blur(second)
    variances = _blur(first**2) - mean_a**2 + _blur(second**2) - mean_b**2
    covariance = _blur(first * second) - mean_a * mean_b
    c1, c2 = _STABILITY
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variances + c2)).mean())


def _pair(a: Any, b: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Both as float64 (H, W, C) in [0, 1]."""
    import numpy

    first, second = (numpy.asarray(each) for each in (a, b))
    if first.shape != second.shape:
        raise ValueError(f"The pictures differ in size: {first.shape} and {second.shape}.")
    scaled = [each / 255 if each.dtype == numpy.uint8 else each for each in (first, second)]
    shaped = [each.astype(numpy.float64).reshape(*each.shape[:2], -1) for each in scaled]
    return shaped[0], shaped[1]


def _blur(picture: numpy.ndarray) -> numpy.ndarray:
    """The Gaussian mean of every window that lies inside: (H, W, C) -> (H - 10, W - 10, C)."""
    import numpy

    offsets = numpy.arange(WINDOW) - WINDOW // 2
    weights = numpy.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        windows = numpy.lib.stride_tricks.sliding_window_view(picture, WINDOW, axis=axis)
        picture = windows @ weights
    return picture
