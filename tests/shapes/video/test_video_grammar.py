from __future__ import annotations

import numpy as np
import pytest

from sdaccel.shapes.grammar import COLOURS, HELD_OUT_SHARE, RELATIONS, SHAPES, SIZES, Side, Thing
from sdaccel.shapes.video.grammar import (
    MOTIONS,
    ROUND,
    TURNS,
    Actor,
    MovingScene,
    parse,
    sample_scenes,
    side_of,
)


def scenes(count: int, seed: int = 0) -> list[MovingScene]:
    rng = np.random.default_rng(seed)
    return [MovingScene.sample(rng) for _ in range(count)]


def test_parsing_a_prompt_gives_the_scene_back() -> None:
    for scene in scenes(500):
        assert parse(scene.prompt) == scene


def test_prompts_read_as_documented() -> None:
    circle, star = Thing("red", "circle"), Thing("blue", "star", "small")
    square = Actor(Thing("green", "square"), "still")
    left = Actor(circle, "moves left")
    above = "a red circle moves left above a still green square"
    assert parse(above) == MovingScene((left, square), None, "above")
    assert parse("a red circle moves left, a small blue star turns") == MovingScene(
        (left, Actor(star, "turns"))
    )
    assert parse("a small blue star turns on a black background") == MovingScene(
        (Actor(star, "turns"),), "black"
    )


def test_case_spaces_articles_and_a_full_stop_do_not_matter() -> None:
    told = parse("  A still LARGE red circle on an  yellow background. ")
    assert told.prompt == "a still large red circle on a yellow background"


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "is not in the grammar of clips"),
        ("a cat runs", "is not in the grammar of clips"),
        ("a red circle moves left and right", "is not in the grammar of clips"),
        ("a red circle on a black background", "either that it is still or how it moves"),
        ("a still red circle moves left", "either that it is still or how it moves"),
        ("a red ring turns", "a ring that turns looks still"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_the_reason(prompt: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(prompt)


def test_sampling_covers_every_word_and_no_scene_is_degenerate() -> None:
    drawn = scenes(3000)
    actors = [actor for scene in drawn for actor in scene.actors]
    assert {actor.thing.colour for actor in actors} == set(COLOURS)
    assert {actor.thing.shape for actor in actors} == set(SHAPES)
    assert {actor.thing.size for actor in actors} == {*SIZES, None}
    assert {actor.motion for actor in actors} == set(MOTIONS)
    assert {scene.relation for scene in drawn} == {*RELATIONS, None}
    assert {scene.background for scene in drawn} == {*COLOURS, None}
    assert not any(actor.motion == TURNS and actor.thing.shape in ROUND for actor in actors)
    for scene in drawn:
        looks = {(actor.thing.colour, actor.thing.shape) for actor in scene.actors}
        assert len(looks) == len(scene.actors)
        assert all(actor.thing.colour != scene.background for actor in scene.actors)


def test_a_scene_told_the_other_way_round_is_canonically_the_same() -> None:
    for scene in scenes(500):
        assert scene.inverse.inverse == scene
        assert scene.canonical == scene.inverse.canonical
        assert side_of(scene.prompt) == side_of(scene.inverse.prompt)


def test_the_split_is_disjoint_by_prompt_and_of_the_stated_share() -> None:
    rng = np.random.default_rng(1)
    sides: tuple[Side, ...] = ("training", "held-out", "evaluation")
    parts = [{scene.prompt for scene in sample_scenes(rng, 60, side=side)} for side in sides]
    assert [len(part) for part in parts] == [60, 60, 60]
    assert len(set.union(*parts)) == 180
    found = [side_of(scene.prompt) for scene in scenes(5000)]
    assert abs(1 - found.count("training") / 5000 - HELD_OUT_SHARE) < 0.02
    assert abs(found.count("held-out") - found.count("evaluation")) < 100
