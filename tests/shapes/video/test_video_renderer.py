from __future__ import annotations

import numpy as np
import pytest

from sdaccel.shapes.video.grammar import MOTIONS, MovingScene, parse
from sdaccel.shapes.video.paths import Path
from sdaccel.shapes.video.renderer import draw_clip, local_coordinates, render_clip

PROMPT = "a red circle moves left above a still green square"


def scenes(count: int) -> list[MovingScene]:
    rng = np.random.default_rng(0)
    return [MovingScene.sample(rng) for _ in range(count)]


def turned(path: Path) -> float:
    return float(path.angle[-1] - path.angle[0])


def test_a_clip_depends_on_scene_and_seed_alone() -> None:
    scene = parse(PROMPT)
    assert np.array_equal(render_clip(scene, 3), render_clip(scene, 3))
    assert not np.array_equal(render_clip(scene, 3), render_clip(scene, 4))


@pytest.mark.parametrize(("frames", "size"), [(17, 96), (9, 64), (2, 32), (33, 128)])
def test_any_length_and_size_shows_the_same_motion(frames: int, size: int) -> None:
    clip, usual = draw_clip(parse(PROMPT), 1, frames, size), draw_clip(parse(PROMPT), 1)
    assert clip.pixels.shape == (frames, size, size, 3)
    assert clip.pixels.dtype == np.uint8
    assert clip.background == usual.background
    for path, other in zip(clip.paths, usual.paths, strict=True):
        assert (path.x[0], path.x[-1]) == (other.x[0], other.x[-1])


def test_too_small_or_short_a_clip_is_refused() -> None:
    for frames, size in ((1, 96), (17, 16)):
        with pytest.raises(ValueError, match="2 frames and a side of 32"):
            render_clip(parse(PROMPT), 0, frames, size)


def test_a_background_that_is_left_open_differs_from_the_things() -> None:
    colours = {draw_clip(parse(PROMPT), seed, 2, 32).background for seed in range(60)}
    assert colours == {"yellow", "cyan", "blue", "purple", "white", "black"}


def test_things_move_as_they_are_told_inside_the_frame_and_apart() -> None:
    for seed, scene in enumerate(scenes(300)):
        paths = draw_clip(scene, seed, 5, 32).paths
        for path in paths:
            travel = path.x[-1] - path.x[0], path.y[-1] - path.y[0]
            way = np.sign(np.round(travel, 3))
            moved = {"moves left": (-1, 0), "moves right": (1, 0)}
            moved |= {"moves up": (0, -1), "moves down": (0, 1)}
            assert tuple(way) == moved.get(path.actor.motion, (0, 0))
            assert np.hypot(*travel) > 0.09 or path.actor.motion in MOTIONS[:2]
            assert (turned(path) > 1.5) == (path.actor.motion == "turns")
            for at in (path.x, path.y):
                assert at.min() > path.radius
                assert at.max() < 1 - path.radius
        if len(paths) == 2:
            first, second = paths
            apart = np.maximum(abs(first.x - second.x), abs(first.y - second.y))
            assert (apart > first.radius + second.radius).all()
            signs = {"above": second.y - first.y, "below": first.y - second.y}
            signs |= {"left of": second.x - first.x, "right of": first.x - second.x}
            assert scene.relation is None or (signs[scene.relation] > 0).all()


def test_the_texture_goes_with_its_thing_and_the_background_stands() -> None:
    clip = draw_clip(parse("a large white square moves right on a blue background"), 2, 17, 128)
    path = clip.paths[0]
    steps = np.rint((path.x - path.x[0]) * 128).astype(int)
    frame = int(np.argmin(np.where(steps > 10, abs((path.x - path.x[0]) * 128 - steps), 9)))
    rows, columns = (int(at * 128) + np.arange(-9, 9) for at in (path.y[0], path.x[0]))
    first = clip.pixels[0][np.ix_(rows, columns)].astype(float)
    later = clip.pixels[frame][np.ix_(rows, columns + steps[frame])].astype(float)
    assert abs(later - first).mean() < 1
    assert first.std() > 3
    assert np.array_equal(clip.pixels[0, :20], clip.pixels[-1, :20])


def test_a_thing_turns_around_its_centre_of_area() -> None:
    path = draw_clip(parse("a large red triangle turns on a white background"), 0).paths[0]
    x = np.broadcast_to(path.x[:, None, None], (17, 1, 1))
    y = np.broadcast_to(path.y[:, None, None], (17, 1, 1))
    centre_x, centre_y = local_coordinates(path, x, y)
    np.testing.assert_allclose(centre_x, 0, atol=1e-6)
    np.testing.assert_allclose(centre_y, (-1 + 0.82 + 0.82) / 3, atol=1e-3)
