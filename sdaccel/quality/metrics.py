"""The metrics by name: in which unit, which way is better, and how to get the function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .clips import added_flicker, motion_error, motion_kept
from .latents import latent_distance
from .perceptual import load_lpips
from .pictures import psnr, ssim
from .pixels import is_finite
from .text_image import load_clip_score, load_image_reward

PSNR, SSIM, LPIPS, LATENTS = "PSNR", "SSIM", "LPIPS", "latent distance"
MOTION_ERROR, MOTION_KEPT, FLICKER = "motion error", "motion kept", "added flicker"
FIDELITY, CLIP_SCORE, IMAGE_REWARD = "prompt fidelity", "CLIP score", "ImageReward"


@dataclass(frozen=True)
class Drawing:
    """What one plan drew of one prompt: a picture or a clip as in `pixels`, and its final latents.

    `latents` is a tensor, or None where the pipeline hands out none.
    """

    pixels: Any
    latents: Any = None


@dataclass(frozen=True)
class Metric:
    """A distance between two drawings, or with `of_one` a score of one drawing and its prompt.

    `load` gives the function, of two drawings or of a drawing and a prompt, and raises
    `MetricError` where something for it is missing.
    """

    name: str
    unit: str
    higher_is_better: bool
    load: Callable[[], Callable[[Drawing, Any], float]]
    of_one: bool = False


def metrics(*, clips: bool) -> list[Metric]:
    """The distances for pictures, or for clips; none needs a prompt."""
    found = [
        Metric(PSNR, "dB", True, lambda: _of_pixels(psnr)),
        Metric(SSIM, "", True, lambda: _of_pixels(ssim)),
        Metric(LPIPS, "", False, lambda: _of_pixels(load_lpips())),
        Metric(LATENTS, "", False, lambda: _distance_of_latents),
    ]
    if clips:
        found += [
            Metric(MOTION_ERROR, "", False, lambda: _of_pixels(motion_error)),
            Metric(MOTION_KEPT, "", True, lambda: _of_pixels(motion_kept)),
            Metric(FLICKER, "", False, lambda: _of_pixels(added_flicker)),
        ]
    return found


def learned_scores() -> list[Metric]:
    """The scores for pictures of any prompt; pictures of drawn shapes mean little to them."""
    return [
        Metric(CLIP_SCORE, "", True, lambda: _of_one(load_clip_score()), of_one=True),
        Metric(IMAGE_REWARD, "", True, lambda: _of_one(load_image_reward()), of_one=True),
    ]


def prompt_fidelity(shows: Callable[[Any, str], bool]) -> Metric:
    """The share of drawings that show what their prompt says; `shows(pixels, prompt)` decides.

    `shows` raises `ValueError` for a prompt that it can't judge. What has NaN in it shows nothing.
    """

    def judged(drawing: Drawing, prompt: str) -> float:
        return float(is_finite(drawing.pixels) and shows(drawing.pixels, prompt))

    return Metric(FIDELITY, "", True, lambda: judged, of_one=True)


def _of_pixels(function: Callable[[Any, Any], float]) -> Callable[[Drawing, Drawing], float]:
    """A distance of pixels as one of drawings; NaN where a drawing has NaN or Inf in it."""

    def distance(first: Drawing, second: Drawing) -> float:
        finite = is_finite(first.pixels) and is_finite(second.pixels)
        return function(first.pixels, second.pixels) if finite else math.nan

    return distance


def _of_one(function: Callable[[Any, str], float]) -> Callable[[Drawing, str], float]:
    """A score of pixels as one of a drawing; NaN where it has NaN or Inf in it."""

    def score(drawing: Drawing, prompt: str) -> float:
        return function(drawing.pixels, prompt) if is_finite(drawing.pixels) else math.nan

    return score


def _distance_of_latents(first: Drawing, second: Drawing) -> float:
    return latent_distance(first.latents, second.latents)
