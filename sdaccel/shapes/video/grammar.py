"""The grammar of clips: what a prompt of the embedded video model can say.

    a red circle moves left above a still green square
    a large white cross moves up, a small blue star turns on a black background

One or two things, each with its motion; between two things a relation, which holds in every frame,
or a comma, when nothing is said about where they are; perhaps a background colour. What is not
said is left open: a size, the place, the background. Colours, shapes, sizes and relations are those
of the picture grammar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdaccel.shapes.grammar import COLOURS, INVERSE, RELATIONS, SHAPES, SIZES, Side, Thing, split

if TYPE_CHECKING:
    import numpy as np

STILL, TURNS = "still", "turns"
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MOTIONS = (STILL, TURNS, *(f"moves {direction}" for direction in DIRECTIONS))
ROUND = ("circle", "ring")
TWO_THINGS_SHARE = 0.7
RELATION_SHARE = 0.75
SIZE_WORD_SHARE = 0.5
BACKGROUND_SHARE = 0.6
EXAMPLE = "a red circle moves left above a still green square"

_THING = rf"an? (still )?(?:({'|'.join(SIZES)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_ACTOR = rf"{_THING}(?: ({'|'.join(MOTIONS[1:])}))?"
_BETWEEN = rf"( {'| '.join(RELATIONS)}|,)"
_BACKGROUND = rf"(?: on an? ({'|'.join(COLOURS)}) background)?"
_PROMPT = re.compile(rf"{_ACTOR}(?:{_BETWEEN} {_ACTOR})?{_BACKGROUND}")


@dataclass(frozen=True)
class Actor:
    """A thing and what it does for the whole clip, one of MOTIONS."""

    thing: Thing
    motion: str

    @property
    def phrase(self) -> str:
        """The thing and its motion in words, with an article."""
        if self.motion == STILL:
            return self.thing.phrase.replace("a ", "a still ", 1)
        return f"{self.thing.phrase} {self.motion}"


@dataclass(frozen=True)
class MovingScene:
    """What a prompt says: one or two actors, how the first lies to the second, the background.

    A `relation` or `background` of None is left open.
    """

    actors: tuple[Actor, ...]
    background: str | None = None
    relation: str | None = None

    @property
    def prompt(self) -> str:
        """The scene in words; `parse` is the inverse."""
        between = f" {self.relation} " if self.relation else ", "
        told = between.join(actor.phrase for actor in self.actors)
        return f"{told} on a {self.background} background" if self.background else told

    @property
    def inverse(self) -> MovingScene:
        """The same scene told from the other thing; a scene of one thing is its own inverse."""
        relation = INVERSE[self.relation] if self.relation else None
        return replace(self, actors=self.actors[::-1], relation=relation)

    @property
    def canonical(self) -> MovingScene:
        """The same scene told with "above" or "left of", or in the order of the alphabet."""
        if self.relation is None:
            return min(self, self.inverse, key=lambda scene: scene.prompt)
        return self.inverse if self.relation in ("below", "right of") else self

    @classmethod
    def sample(cls, rng: np.random.Generator) -> MovingScene:
        """Draw a scene; both things differ from the background, and from each other in look."""
        background = _choose(rng, COLOURS)
        colours = tuple(colour for colour in COLOURS if colour != background)
        said = background if rng.random() < BACKGROUND_SHARE else None
        first = _sample_actor(rng, colours)
        if rng.random() >= TWO_THINGS_SHARE:
            return cls((first,), said)
        second = _sample_actor(rng, colours)
        while (second.thing.colour, second.thing.shape) == (first.thing.colour, first.thing.shape):
            second = _sample_actor(rng, colours)
        relation = _choose(rng, RELATIONS) if rng.random() < RELATION_SHARE else None
        return cls((first, second), said, relation)


def parse(prompt: str) -> MovingScene:
    """Read a prompt of the grammar; ValueError, with an example, for any other text."""
    found = _PROMPT.fullmatch(" ".join(prompt.lower().split()).rstrip("."))
    if found is None:
        raise ValueError(
            f"{prompt!r} is not in the grammar of clips; a prompt reads like {EXAMPLE!r}"
        )
    *words, background = found.groups()
    actors = [_actor(prompt, *words[:5])]
    relation = words[5]
    if relation is not None:
        actors.append(_actor(prompt, *words[6:]))
    return MovingScene(
        tuple(actors), background, None if relation in (None, ",") else relation.strip()
    )


def side_of(prompt: str) -> Side:
    """The side of a prompt of this grammar; told the other way round, a scene stays on its side."""
    return split(parse(prompt).canonical.prompt)


def sample_scenes(rng: np.random.Generator, count: int, *, side: Side) -> list[MovingScene]:
    """Draw `count` scenes with distinct prompts, all from one side of the split."""
    scenes: dict[str, MovingScene] = {}
    while len(scenes) < count:
        scene = MovingScene.sample(rng)
        if side_of(scene.prompt) == side:
            scenes.setdefault(scene.prompt, scene)
    return list(scenes.values())


def _actor(
    prompt: str, still: str | None, size: str | None, colour: str, shape: str, motion: str | None
) -> Actor:
    """One actor from its words; it must move or be still, and what is round can't turn."""
    if (still is None) == (motion is None):
        raise ValueError(
            f"{prompt!r} must say of each thing either that it is still or how it moves; "
            f"a prompt reads like {EXAMPLE!r}"
        )
    if motion == TURNS and shape in ROUND:
        raise ValueError(f"{prompt!r} can't be seen: a {shape} that turns looks still")
    return Actor(Thing(colour, shape, size), motion or STILL)


def _choose(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def _sample_actor(rng: np.random.Generator, colours: tuple[str, ...]) -> Actor:
    size = _choose(rng, SIZES) if rng.random() < SIZE_WORD_SHARE else None
    thing = Thing(_choose(rng, colours), _choose(rng, SHAPES), size)
    motions = tuple(motion for motion in MOTIONS if motion != TURNS or thing.shape not in ROUND)
    return Actor(thing, _choose(rng, motions))
