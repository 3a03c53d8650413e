from __future__ import annotations

import hashlib
from typing import get_args

import numpy as np
import pytest

from sdaccel.shapes.grammar import (
    COLOURS,
    HELD_OUT_SHARE,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Side,
    Thing,
    is_held_out,
    parse,
    sample_scenes,
    side_of,
    split,
)

SIDES: tuple[Side, ...] = get_args(Side)


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [Scene.sample(rng) for _ in range(count)]


def test_the_grammar_is_as_rich_as_it_promises() -> None:
    assert len(set(COLOURS)) >= 8
    assert len(set(SHAPES)) >= 6
    assert len(set(SIZES)) >= 2
    assert len(set(RELATIONS)) >= 4


def test_parsing_a_prompt_gives_the_scene_back() -> None:
    for scene in scenes(500):
        assert parse(scene.prompt) == scene


def test_a_prompt_reads_as_documented() -> None:
    things = (Thing("red", "circle", "large"), Thing("blue", "square"))
    scene = Scene(things, "green", "left of")
    assert scene.prompt == "a large red circle left of a blue square on a green background"


def test_case_spaces_articles_and_a_full_stop_do_not_matter() -> None:
    assert parse("  A large RED circle on an  yellow background. ") == Scene(
        (Thing("red", "circle", "large"),), "yellow"
    )


@pytest.mark.parametrize("prompt", ["", "a cat", "a red circle", "a red red on a blue background"])
def test_other_text_is_refused_with_an_example(prompt: str) -> None:
    with pytest.raises(ValueError, match="a large red circle above"):
        parse(prompt)


def test_sampling_covers_every_word_and_no_scene_is_degenerate() -> None:
    drawn = scenes(3000)
    things = [thing for scene in drawn for thing in scene.things]
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.size for thing in things} == {*SIZES, None}
    assert {scene.relation for scene in drawn} == {*RELATIONS, None}
    for scene in drawn:
        assert all(thing.colour != scene.background for thing in scene.things)
        assert len({(thing.colour, thing.shape) for thing in scene.things}) == len(scene.things)


def test_the_same_seed_samples_the_same_scenes() -> None:
    assert scenes(50, seed=4) == scenes(50, seed=4) != scenes(50, seed=5)


def test_a_scene_told_the_other_way_round_stays_on_its_side_of_the_split() -> None:
    for scene in scenes(500):
        assert scene.inverse.inverse == scene
        assert side_of(scene.prompt) == side_of(scene.inverse.prompt)


def test_the_sides_are_disjoint_by_prompt_and_of_the_stated_shares() -> None:
    rng = np.random.default_rng(1)
    sides = {side: {scene.prompt for scene in sample_scenes(rng, 200, side=side)} for side in SIDES}
    assert all(len(prompts) == 200 for prompts in sides.values())
    assert all({side_of(prompt) for prompt in prompts} == {side} for side, prompts in sides.items())
    drawn = [side_of(scene.prompt) for scene in scenes(5000)]
    for side in ("held-out", "evaluation"):
        assert abs(drawn.count(side) / len(drawn) - HELD_OUT_SHARE / 2) < 0.01


def test_training_avoids_what_it_avoided_when_the_tenth_was_one() -> None:
    """The committed weights were trained under this rule, so it must not move."""
    for scene in scenes(2000):
        digest = hashlib.sha256(scene.canonical.prompt.encode()).digest()
        kept_away = int.from_bytes(digest[:4], "big") < 0.1 * 2**32
        assert is_held_out(scene.prompt) is kept_away


def test_text_of_any_other_grammar_has_its_fixed_side_too() -> None:
    assert [split(f"clip number {index}") for index in (0, 12, 15)] == list(SIDES)
