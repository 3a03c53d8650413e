"""What no number may excuse is found in pictures and clips, and nothing is found in good ones."""

from __future__ import annotations

import numpy
import pytest
import torch

from sdaccel.quality.faults import fault
from sdaccel.shapes.grammar import Scene
from sdaccel.shapes.renderer import render

RNG = numpy.random.default_rng


@pytest.mark.parametrize("size", [64, 96])
def test_a_drawn_scene_has_no_fault(size: int) -> None:
    rng = RNG(7)
    for index in range(200):
        assert fault(render(Scene.sample(rng), index, size)) is None


def test_a_smooth_picture_of_any_shape_has_no_fault() -> None:
    down, across = numpy.mgrid[:300, :500] / 500
    assert fault(numpy.stack([down, across, down + across], -1) / 2) is None
    assert fault(across) is None


@pytest.mark.parametrize("shape", [(64, 64, 3), (96, 96, 3), (512, 768, 3), (16, 16, 3)])
def test_noise_is_found_whatever_its_colours_and_grain(shape: tuple[int, int, int]) -> None:
    height, width, _ = shape
    grains = [RNG(1).random(shape), RNG(2).random((height, width, 1)).repeat(3, -1)]
    grains.append(0.5 + 0.1 * RNG(3).standard_normal(shape))
    if height >= 64:
        coarse = RNG(4).random((height // 4, width // 4, 3))
        grains.append(coarse.repeat(4, 0).repeat(4, 1))
    for noise in grains:
        assert str(fault(noise)).startswith("is noise")


def test_what_a_vae_makes_of_random_latents_is_noise_though_it_is_smooth() -> None:
    """What a model that has not denoised at all leaves behind."""
    from sdaccel import shapes

    vae = shapes.load("unet").vae
    latents = torch.randn(24, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        decoded = vae.decode(latents / vae.config.scaling_factor).sample
    for picture in (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy():
        assert str(fault(picture)).startswith("is noise")


@pytest.mark.parametrize(
    ("level", "says"), [(0.0, "black"), (0.03, "black"), (0.5, "of one colour"), (1.0, "white")]
)
def test_a_picture_of_one_colour_is_found_even_with_a_little_noise(level: float, says: str) -> None:
    picture = numpy.full((64, 64, 3), level)
    assert fault(picture) == f"is {says} all over"
    assert fault(picture + 0.005 * RNG(0).standard_normal(picture.shape)) == f"is {says} all over"


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
def test_one_value_that_is_not_finite_is_found(value: float) -> None:
    picture = render(Scene.sample(RNG(0))) / 255
    picture[3, 4, 1] = value
    assert fault(picture) == "has NaN or Inf in it"


def test_a_clip_is_as_bad_as_its_worst_frame_which_is_named() -> None:
    clip = numpy.stack([render(Scene.sample(RNG(0)), 0)] * 5) / 255
    assert fault(clip) is None
    for broken, says in (
        (numpy.zeros_like(clip[0]), "is black all over"),
        (RNG(0).random(clip[0].shape), "is noise"),
        (numpy.full_like(clip[0], numpy.nan), "has NaN"),
    ):
        bad = clip.copy()
        bad[3] = broken
        assert str(fault(bad)).startswith(says)
        assert str(fault(bad)).endswith("(frame 3)")
