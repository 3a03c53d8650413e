"""Wrong prompts for clips: the right one with one word changed, in a way that can be seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdaccel.shapes.grammar import COLOURS, RELATIONS, SHAPES, SIZES
from sdaccel.shapes.video.grammar import MOTIONS, ROUND, TURNS, MovingScene

if TYPE_CHECKING:
    import numpy as np


def misword(scene: MovingScene, rng: np.random.Generator) -> tuple[str, MovingScene]:
    """What kind of word was changed, and the scene with it; a clip of `scene` doesn't show it."""

    def other(words: tuple[str, ...], *taken: str | None) -> str:
        free = [word for word in words if word not in taken]
        return free[int(rng.integers(len(free)))]

    which = int(rng.integers(len(scene.actors)))
    actor = scene.actors[which]
    thing = actor.thing
    kinds = ["colour", "motion"] + ["shape"] * (actor.motion != TURNS)
    kinds += ["size"] * bool(thing.size) + ["relation"] * bool(scene.relation)
    kinds += ["background"] * bool(scene.background)
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "background":
        used = [one.thing.colour for one in scene.actors]
        return kind, replace(scene, background=other(COLOURS, scene.background, *used))
    if kind == "relation":
        return kind, replace(scene, relation=other(RELATIONS, scene.relation))
    if kind == "motion":
        turns = (TURNS,) if thing.shape in ROUND else ()
        actor = replace(actor, motion=other(MOTIONS, actor.motion, *turns))
    elif kind == "colour":
        actor = replace(actor, thing=replace(thing, colour=other(COLOURS, thing.colour)))
    elif kind == "shape":
        actor = replace(actor, thing=replace(thing, shape=other(SHAPES, thing.shape)))
    else:
        actor = replace(actor, thing=replace(thing, size=other(SIZES, thing.size)))
    actors = list(scene.actors)
    actors[which] = actor
    return kind, replace(scene, actors=tuple(actors))
