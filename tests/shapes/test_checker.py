from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sdaccel.shapes.checker import Region, check, compare, connected, find, fit_shape
from sdaccel.shapes.geometry import coverage, place
from sdaccel.shapes.grammar import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    parse,
    sample_scenes,
)
from sdaccel.shapes.renderer import render

COUNT = 300


Found = tuple[str | None, tuple[Region, ...]]


@pytest.fixture(scope="module")
def seen() -> list[tuple[Scene, Found]]:
    """Held-out scenes, each with what the checker found in its picture."""
    scenes = sample_scenes(np.random.default_rng(5), COUNT, side="held-out")
    return [(scene, find(render(scene, index))) for index, scene in enumerate(scenes)]


def changed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one word changed that the picture must show."""

    def other(words: tuple[str, ...], *taken: str | None) -> str:
        free = [word for word in words if word not in taken]
        return free[int(rng.integers(len(free)))]

    which = int(rng.integers(len(scene.things)))
    thing = scene.things[which]
    kinds = ["background", "colour", "shape"]
    kinds += ["size"] * bool(thing.size) + ["relation"] * bool(scene.relation)
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "background":
        used = [one.colour for one in scene.things]
        return replace(scene, background=other(COLOURS, scene.background, *used))
    if kind == "relation":
        return replace(scene, relation=other(RELATIONS, scene.relation))
    if kind == "colour":
        thing = replace(thing, colour=other(COLOURS, thing.colour, scene.background))
    elif kind == "shape":
        thing = replace(thing, shape=other(SHAPES, thing.shape))
    else:
        thing = replace(thing, size=other(SIZES, thing.size))
    things = list(scene.things)
    things[which] = thing
    return replace(scene, things=tuple(things))


def test_the_renderers_own_pictures_pass(seen: list[tuple[Scene, Found]]) -> None:
    passed = sum(compare(*found, scene.prompt).passed for scene, found in seen)
    assert passed >= 0.99 * COUNT


def test_another_prompt_does_not_pass(seen: list[tuple[Scene, Found]]) -> None:
    others = [scene for scene, _ in seen[1:]]
    passed = sum(
        compare(*found, other).passed for (_, found), other in zip(seen[:-1], others, strict=True)
    )
    assert passed <= 0.02 * COUNT


def test_a_prompt_with_one_word_changed_does_not_pass(seen: list[tuple[Scene, Found]]) -> None:
    rng = np.random.default_rng(6)
    passed = sum(compare(*found, changed(scene, rng)).passed for scene, found in seen)
    assert passed <= 0.02 * COUNT


def test_the_failed_part_is_named() -> None:
    picture = render(parse("a large red circle above a small blue square on a white background"))
    wrong = {
        "a large red circle above a small blue square on a black background": ("background",),
        "a large red circle above a small green square on a white background": ("colour",),
        "a large red star above a small blue square on a white background": ("shape",),
        "a large red circle above a large blue square on a white background": ("size",),
        "a large red circle left of a small blue square on a white background": ("relation",),
        "a large red circle on a white background": ("count",),
    }
    for prompt, failed in wrong.items():
        assert check(picture, prompt).failed == failed


def test_a_prompt_without_a_size_accepts_either() -> None:
    for size in SIZES:
        picture = render(parse(f"a {size} red star on a white background"))
        assert check(picture, "a red star on a white background").passed


def test_pictures_of_nothing_fail() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for picture in (np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 0.5), noise):
        for scene in sample_scenes(np.random.default_rng(1), 20, side="held-out"):
            assert not check(picture, scene).passed


@pytest.mark.parametrize("size", [64, 128])
def test_images_arrays_and_sizes_are_judged_alike(size: int) -> None:
    prompt = "a small yellow cross right of a large purple ring on a black background"
    pixels = render(parse(prompt), 2, size)
    for picture in (pixels, pixels / 255, Image.fromarray(pixels)):
        assert check(picture, prompt).passed


def test_something_that_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="height, width, 3"):
        check(np.zeros((64, 64)), "a red star on a white background")


def test_a_little_stray_colour_is_forgiven_and_much_is_not() -> None:
    prompt = "a large red square on a white background"
    picture = render(parse(prompt)).copy()
    picture[1:4, 1:4] = (20, 40, 200)
    assert check(picture, prompt).passed
    picture[1:14, 1:14] = (20, 40, 200)
    assert "count" in check(picture, prompt).failed


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_the_shape_is_fitted_with_its_radius(shape: str, size: str) -> None:
    scene = parse(f"a {size} red {shape} on a white background")
    placed = place(scene, np.random.default_rng(3))[0]
    found, overlap, radius = fit_shape(coverage(placed, 64) > 0.5)
    assert found == shape
    assert overlap > 0.9
    assert radius == pytest.approx(placed.radius * 64, rel=0.08)


def test_regions_are_separated_and_sorted_by_size() -> None:
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[1, 1] = True
    mask[4:7, 4:7] = True
    assert [int(region.sum()) for region in connected(mask)] == [9, 1, 1]
