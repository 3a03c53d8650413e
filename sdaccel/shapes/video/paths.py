"""Where the things of a clip are in each frame: inside the frame, apart, and in their relation.

Lengths are shares of the frame's side, x grows to the right and y downwards, angles are in radians
and grow clockwise. Everything moves and turns at constant speed for the whole clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdaccel.shapes.grammar import RELATIONS, SIZES
from sdaccel.shapes.video.grammar import DIRECTIONS, TURNS, Actor, MovingScene

RADIUS = {"large": 0.15, "small": 0.1}
RADIUS_JITTER = 0.04
PIVOT_Y = {"circle": 0.0, "square": 0.0, "triangle": 0.2133, "star": 0.0, "cross": 0.0, "ring": 0.0}
"""Where the centre of area lies in a shape of radius 1: what turns, turns around it."""
REACH = 1.26
EXTENT, TURNING_EXTENT = 1.12, 1.25
MARGIN = 0.02
GAP = 0.03
TRAVEL = 0.36
TURN = (np.radians(90), np.radians(140))
CENTRE_JITTER = {1: 0.1, 2: 0.05}


@dataclass(frozen=True)
class Path:
    """A thing's centre of area (x, y) and angle in each frame, (frames,) float32 each."""

    actor: Actor
    radius: float
    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray

    @property
    def shape(self) -> str:
        """The thing's shape."""
        return self.actor.thing.shape

    @property
    def colour(self) -> str:
        """The thing's colour."""
        return self.actor.thing.colour


def lay_paths(scene: MovingScene, rng: np.random.Generator, frames: int) -> tuple[Path, ...]:
    """Choose sizes, places and speeds; a relation that is left open is chosen as well."""
    count = len(scene.actors)
    radii = [_radius(actor, rng) for actor in scene.actors]
    extents = np.array([_extent(*pair) for pair in zip(scene.actors, radii, strict=True)])
    moves = np.array([_direction(actor) for actor in scene.actors], float)
    travels = moves * TRAVEL * rng.uniform(0.8, 1.0, (count, 1))
    jitter = CENTRE_JITTER[count]
    middles = 0.5 + rng.uniform(-jitter, jitter, (count, 2))
    if count == 2:
        relation = scene.relation or RELATIONS[int(rng.integers(len(RELATIONS)))]
        axis = int(relation in ("above", "below"))
        order = [0, 1] if relation in ("above", "left of") else [1, 0]
        lined_up = _line_up(extents[order], moves[order, axis], np.abs(travels).max(), rng)
        middles[order, axis], travels[order, axis] = lined_up
    edge = MARGIN + extents[:, None] + np.abs(travels) / 2
    middles = np.clip(middles, edge, 1 - edge)
    speeds = [rng.uniform(*TURN) * (actor.motion == TURNS) for actor in scene.actors]
    times = np.linspace(0, 1, frames, dtype=np.float32)
    places = (middles[:, None] + travels[:, None] * (times[:, None] - 0.5)).astype(np.float32)
    return tuple(
        Path(actor, radius, place[:, 0], place[:, 1], times * np.float32(speed))
        for actor, radius, place, speed in zip(scene.actors, radii, places, speeds, strict=True)
    )


def _line_up(
    extents: np.ndarray, moves: np.ndarray, travel: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Middles and travels of two things along an axis, the first before the second all the time.

    `moves` holds -1, 0 or 1 for each. What moves here travels as far as there is room for.
    """
    needed = np.maximum(0.0, (-moves[0], moves[0] - moves[1], moves[1]))
    free = 1 - 2 * MARGIN - GAP - 2 * extents.sum()
    travel = min(travel, free / max(1.0, needed.sum()))
    spread = rng.dirichlet((1.0, 1.0, 1.0)) * (free - travel * needed.sum())
    first = MARGIN + extents[0] + travel * needed[0] + spread[0]
    second = first + extents.sum() + GAP + travel * needed[1] + spread[1]
    return np.array((first, second)) + moves * travel / 2, moves * travel


def _direction(actor: Actor) -> tuple[int, int]:
    return DIRECTIONS.get(actor.motion.removeprefix("moves "), (0, 0))


def _extent(actor: Actor, radius: float) -> float:
    return radius * (TURNING_EXTENT if actor.motion == TURNS else EXTENT)


def _radius(actor: Actor, rng: np.random.Generator) -> float:
    size = actor.thing.size or SIZES[int(rng.integers(len(SIZES)))]
    return RADIUS[size] * float(1 + rng.uniform(-RADIUS_JITTER, RADIUS_JITTER))
