from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdaccel.shapes.grammar import SIZES
from sdaccel.shapes.video.checker import check_clip, compare
from sdaccel.shapes.video.grammar import MovingScene, parse, sample_scenes
from sdaccel.shapes.video.mistakes import misword
from sdaccel.shapes.video.renderer import render_clip
from sdaccel.shapes.video.tracks import Found, follow, label

COUNT = 60
PROMPT = "a large red circle moves left above a still small green square on a white background"


@pytest.fixture(scope="module")
def seen() -> list[tuple[MovingScene, Found]]:
    """Held-out scenes, each with what was followed in its clip."""
    scenes = sample_scenes(np.random.default_rng(5), COUNT, side="held-out")
    return [(scene, follow(render_clip(scene, index))) for index, scene in enumerate(scenes)]


def test_the_renderers_own_clips_pass(seen: list[tuple[MovingScene, Found]]) -> None:
    assert sum(compare(found, scene).passed for scene, found in seen) >= 0.99 * COUNT


def test_another_prompt_does_not_pass(seen: list[tuple[MovingScene, Found]]) -> None:
    others = [scene for scene, _ in seen[1:]]
    passed = [
        compare(found, other).passed for (_, found), other in zip(seen[:-1], others, strict=True)
    ]
    assert sum(passed) <= 0.02 * COUNT


def test_a_prompt_with_one_word_changed_does_not_pass(
    seen: list[tuple[MovingScene, Found]],
) -> None:
    rng = np.random.default_rng(6)
    for scene, found in seen:
        kind, wrong = misword(scene, rng)
        failed = compare(found, wrong).failed
        assert failed, (kind, scene.prompt, wrong.prompt)


def test_the_failed_part_is_named() -> None:
    found = follow(render_clip(parse(PROMPT)))
    wrong = {
        ("white", "black"): "background",
        ("red", "blue"): "colour",
        ("circle", "star"): "shape",
        ("small", "large"): "size",
        ("above", "below"): "relation",
        ("moves left", "moves right"): "motion",
        ("moves left", "moves up"): "motion",
    }
    assert compare(found, parse(PROMPT)).passed
    for (right, word), part in wrong.items():
        assert compare(found, parse(PROMPT.replace(right, word))).failed == (part,)
    one = parse("a large red circle moves left on a white background")
    assert compare(found, one).failed == ("count",)


def test_what_is_left_open_may_be_anything() -> None:
    for size in SIZES:
        clip = render_clip(parse(f"a {size} red star turns on a white background"), 1)
        for prompt in ("a red star turns on a white background", f"a {size} red star turns"):
            assert check_clip(clip, prompt).passed


def test_clips_of_nothing_fail() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (17, 96, 96, 3), dtype=np.uint8)
    black, nan = np.zeros_like(noise), np.full(noise.shape, np.nan)
    scenes = sample_scenes(np.random.default_rng(1), 10, side="held-out")
    for clip in (black, np.full(noise.shape, 0.5), nan, noise):
        found = follow(clip)
        assert not any(compare(found, scene).passed for scene in scenes)


def test_a_picture_that_stands_still_shows_no_motion() -> None:
    clip = render_clip(parse(PROMPT))
    frozen = np.repeat(clip[8:9], 17, 0)
    assert check_clip(frozen, PROMPT).failed == ("motion",)
    assert check_clip(clip[::-1], PROMPT).failed == ("motion",)


def test_a_jump_is_not_smooth() -> None:
    clip = render_clip(parse(PROMPT))
    order = [0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 14, 15, 14, 13, 14, 15, 16]
    assert "track" in check_clip(clip[order], PROMPT).failed


def test_flicker_of_the_background_and_of_a_thing_is_found() -> None:
    clip = render_clip(parse(PROMPT)).astype(np.float64) / 255
    light = np.where(np.arange(17) % 2, 0.93, 1.0)[:, None, None, None]
    assert check_clip(clip * light, PROMPT).failed == ("flicker",)
    red = (clip[..., 0] - clip[..., 1] > 0.4)[..., None]
    assert check_clip(np.where(red, clip * (2 * light - 1), clip), PROMPT).failed == ("flicker",)


def test_a_thing_that_is_gone_for_a_while_is_missed() -> None:
    clip = render_clip(parse(PROMPT)).copy()
    clip[5:8, :64] = clip[5:8, :1, :1]
    assert "count" in check_clip(clip, PROMPT).failed


def test_arrays_pictures_and_sizes_are_judged_alike() -> None:
    for size in (64, 96, 128):
        clip = render_clip(parse(PROMPT), 1, 17, size)
        for shown in (clip, clip / 255, [Image.fromarray(frame) for frame in clip]):
            assert check_clip(shown, PROMPT).passed


def test_what_cannot_be_judged_is_refused() -> None:
    clip = render_clip(parse(PROMPT), 0, 2, 32)
    with pytest.raises(ValueError, match="not in the grammar of clips"):
        check_clip(clip, "a cat chases a red circle")
    with pytest.raises(ValueError, match="frames, height, width, 3"):
        check_clip(clip[0], PROMPT)


def test_regions_that_touch_at_a_corner_are_apart_and_frames_are_too() -> None:
    masks = np.zeros((2, 6, 6), bool)
    masks[:, 0, 0] = masks[:, 1, 1] = masks[0, 3:5, 3:5] = True
    labels = label(masks)
    assert len(np.unique(labels)) == 1 + 3 + 2
    assert len(np.unique(labels[0, 3:5, 3:5])) == 1
