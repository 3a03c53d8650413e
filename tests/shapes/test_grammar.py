from __future__ import annotations

import numpy as np
import pytest

from sdaccel.shapes.grammar import (
    COLOURS,
    HELD_OUT_SHARE,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    is_held_out,
    parse,
    sample_scenes,
)


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
        assert is_held_out(scene.prompt) == is_held_out(scene.inverse.prompt)


def test_the_split_is_disjoint_by_prompt_and_of_the_stated_share() -> None:
    rng = np.random.default_rng(1)
    train = {scene.prompt for scene in sample_scenes(rng, 500, held_out=False)}
    held_out = {scene.prompt for scene in sample_scenes(rng, 100, held_out=True)}
    assert len(train) == 500
    assert len(held_out) == 100
    assert not train & held_out
    share = np.mean([is_held_out(scene.prompt) for scene in scenes(5000)])
    assert abs(share - HELD_OUT_SHARE) < 0.02
