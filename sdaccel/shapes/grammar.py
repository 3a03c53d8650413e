"""The scene grammar: what a prompt of the embedded models can say.

    a large red circle above a small blue square on a green background

One or two things, each with a colour, a shape and (optionally) a size; between two things a
relation; a background colour that differs from both. A prompt without a size word allows any size.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("large", "small")
RELATIONS = ("above", "below", "left of", "right of")
INVERSE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
HELD_OUT_SHARE = 0.1
"""The share of all prompts that no training sees; half of it is held out, half for evaluation."""
TWO_THINGS_SHARE = 0.7
SIZE_WORD_SHARE = 0.75

Side = Literal["training", "held-out", "evaluation"]

_THING = rf"an? (?:({'|'.join(SIZES)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_PROMPT = re.compile(
    rf"{_THING}(?: ({'|'.join(RELATIONS)}) {_THING})? on an? ({'|'.join(COLOURS)}) background"
)


@dataclass(frozen=True)
class Thing:
    """One object of a scene; `size` None means that the prompt leaves it open."""

    colour: str
    shape: str
    size: str | None = None

    @property
    def phrase(self) -> str:
        """The thing in words, with its article."""
        return " ".join(word for word in ("a", self.size, self.colour, self.shape) if word)


@dataclass(frozen=True)
class Scene:
    """What a prompt says: one or two things, how the first lies to the second, the background."""

    things: tuple[Thing, ...]
    background: str
    relation: str | None = None

    @property
    def prompt(self) -> str:
        """The scene in words; `parse` is the inverse."""
        things = f" {self.relation} ".join(thing.phrase for thing in self.things)
        return f"{things} on a {self.background} background"

    @property
    def canonical(self) -> Scene:
        """The same scene told with "above" or "left of", whichever way round it was told."""
        return self.inverse if self.relation in ("below", "right of") else self

    @property
    def inverse(self) -> Scene:
        """The same scene told from the other thing; a scene of one thing is its own inverse."""
        if self.relation is None:
            return self
        return replace(self, things=self.things[::-1], relation=INVERSE[self.relation])

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Scene:
        """Draw a scene; both things differ from the background, and from each other in look."""
        background = _choose(rng, COLOURS)
        colours = tuple(colour for colour in COLOURS if colour != background)
        first = _sample_thing(rng, colours)
        if rng.random() >= TWO_THINGS_SHARE:
            return cls((first,), background)
        second = _sample_thing(rng, colours)
        while (second.colour, second.shape) == (first.colour, first.shape):
            second = _sample_thing(rng, colours)
        return cls((first, second), background, _choose(rng, RELATIONS))


def parse(prompt: str) -> Scene:
    """Read a prompt of the grammar; ValueError, with an example, for any other text."""
    found = _PROMPT.fullmatch(" ".join(prompt.lower().split()).rstrip("."))
    if found is None:
        example = "a large red circle above a small blue square on a green background"
        raise ValueError(f"{prompt!r} is not in the scene grammar; a prompt reads like {example!r}")
    size, colour, shape, relation, other_size, other_colour, other_shape, background = (
        found.groups()
    )
    things = [Thing(colour, shape, size)]
    if relation is not None:
        things.append(Thing(other_colour, other_shape, other_size))
    return Scene(tuple(things), background, relation)


def split(text: str) -> Side:
    """Which side of the split a prompt in its canonical wording falls on, by a hash of the text.

    "training" is nine tenths. No training sees the rest: half of it is "held-out", for measuring a
    model and tuning what speeds it up; the other half is "evaluation", for judging what was tuned,
    and nothing is ever chosen by it. Whatever its length or grammar, a text stays on its side.
    """
    digest = hashlib.sha256(text.encode()).digest()
    if int.from_bytes(digest[:4], "big") >= HELD_OUT_SHARE * 2**32:
        return "training"
    return "evaluation" if digest[4] % 2 else "held-out"


def side_of(prompt: str) -> Side:
    """The side of a prompt of this grammar; `ValueError` for any other text.

    A scene told the other way round ("b below a") always falls on the same side as "a above b".
    """
    return split(parse(prompt).canonical.prompt)


def is_held_out(prompt: str) -> bool:
    """Whether no training picture may carry this prompt: it is held out, or for evaluation."""
    return side_of(prompt) != "training"


def sample_scenes(rng: np.random.Generator, count: int, *, side: Side) -> list[Scene]:
    """Draw `count` scenes with distinct prompts, all from one side of the split."""
    scenes: dict[str, Scene] = {}
    while len(scenes) < count:
        scene = Scene.sample(rng)
        if side_of(scene.prompt) == side:
            scenes.setdefault(scene.prompt, scene)
    return list(scenes.values())


def _choose(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def _sample_thing(rng: np.random.Generator, colours: tuple[str, ...]) -> Thing:
    size = _choose(rng, SIZES) if rng.random() < SIZE_WORD_SHARE else None
    return Thing(_choose(rng, colours), _choose(rng, SHAPES), size)
