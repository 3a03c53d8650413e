from __future__ import annotations

import numpy as np
import pytest

from sdaccel.shapes.geometry import coverage, place, signed_distance
from sdaccel.shapes.grammar import SHAPES, Scene, parse
from sdaccel.shapes.renderer import PALETTE, draw, render

PROMPT = "a large red circle above a small blue square on a green background"


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [Scene.sample(rng) for _ in range(count)]


def test_a_picture_depends_on_scene_and_seed_alone() -> None:
    scene = parse(PROMPT)
    assert np.array_equal(render(scene, 3), render(scene, 3))
    assert not np.array_equal(render(scene, 3), render(scene, 4))


@pytest.mark.parametrize("size", [16, 64, 100, 128])
def test_any_size_shows_the_same_scene(size: int) -> None:
    large, other = draw(parse(PROMPT), 1, 256), draw(parse(PROMPT), 1, size)
    assert other.pixels.shape == (size, size, 3)
    assert other.pixels.dtype == np.uint8
    assert other.placed == large.placed


def test_too_small_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        render(parse(PROMPT), 0, 8)


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_anti_aliased_to_a_pixel_of_the_true_area(shape: str) -> None:
    scene = parse(f"a large red {shape} on a white background")
    placed = place(scene, np.random.default_rng(0))[0]
    coarse, fine = coverage(placed, 64), coverage(placed, 1024)
    assert ((coarse > 0.05) & (coarse < 0.95)).sum() > 20
    # The outline is at most about 150 pixels long; half a pixel's bias of it would be 0.018.
    assert abs(coarse.mean() - fine.mean()) < 0.003


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_negative_inside_and_never_grow_faster_than_space(shape: str) -> None:
    axis = np.linspace(-2, 2, 201)
    x, y = np.meshgrid(axis, axis)
    distance = signed_distance(shape, x, y)
    assert distance.min() < -0.15
    assert distance[0, 0] > 0.5
    slopes = np.hypot(*np.gradient(distance, axis, axis))
    assert np.quantile(slopes, 0.99) < 1.05


def test_things_lie_inside_the_frame_apart_and_in_their_relation() -> None:
    for index, scene in enumerate(scenes(300)):
        masks = [coverage(one, 64) > 0.5 for one in draw(scene, index).placed]
        for mask in masks:
            outermost = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
            assert outermost.sum() < 0.02 * mask.sum()
        if len(masks) == 2:
            assert not (masks[0] & masks[1]).any()
            first, second = draw(scene, index).placed
            dx, dy = first.x - second.x, first.y - second.y
            signs = {"above": -dy, "below": dy, "left of": -dx, "right of": dx}
            assert max(signs, key=lambda relation: signs[relation]) == scene.relation


def test_surfaces_are_shaded_and_textured_around_their_colour() -> None:
    pixels = render(parse("a small red circle on a blue background"), 0)
    corner = pixels[:10, :10].reshape(-1, 3) / 255
    assert np.abs(corner.mean(0) - PALETTE["blue"]).max() < 0.15
    assert corner.std(0).max() > 0.008
    assert pixels[:10, :10].mean() > pixels[-10:, -10:].mean() + 5
