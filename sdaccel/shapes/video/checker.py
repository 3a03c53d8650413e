"""Says whether a clip shows what its prompt says: what is there, how it moves, how smoothly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from sdaccel.shapes.checker import MIN_OVERLAP
from sdaccel.shapes.grammar import COLOURS, SHAPES
from sdaccel.shapes.video.grammar import DIRECTIONS, STILL, TURNS, MovingScene, parse
from sdaccel.shapes.video.outlines import ARMS
from sdaccel.shapes.video.paths import RADIUS
from sdaccel.shapes.video.tracks import Found, Track, follow

PARTS = (
    "count",
    "background",
    "colour",
    "shape",
    "size",
    "relation",
    "motion",
    "track",
    "flicker",
)
MAX_MISSED = 0.06
MIN_AGREEMENT = 0.75
SIZE_LIMIT = float(np.sqrt(RADIUS["large"] * RADIUS["small"]))
SIZE_RANGE = (0.75 * RADIUS["small"], 1.3 * RADIUS["large"])
STILL_TRAVEL, MIN_TRAVEL = 0.04, 0.06
MAX_SLANT = 0.5
STILL_TURN, MIN_TURN = np.radians(20), np.radians(45)
MAX_STRAY = 0.03
MAX_PULSE = 0.1
MAX_CHANGE = 0.02
MAX_TONE_CHANGE = 0.04


@dataclass(frozen=True)
class Mover:
    """What one track shows; None where it shows nothing of the grammar.

    `stray` is the largest distance from even motion along a line, `pulse` the standard deviation of
    the radius as a share of it, `tone_change` of the colour.
    """

    colour: str | None
    shape: str | None
    size: str | None
    motion: str | None
    x: np.ndarray
    y: np.ndarray
    stray: float
    pulse: float
    tone_change: float


@dataclass(frozen=True)
class ClipCheck:
    """What was found in a clip, and which of PARTS went wrong."""

    background: str | None
    movers: tuple[Mover, ...]
    failed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the clip shows everything the prompt says."""
        return not self.failed


def check_clip(clip: Any, wanted: MovingScene | str) -> ClipCheck:
    """Compare a clip, (frames, H, W, 3) uint8 or 0..1 or a list of pictures, with its prompt.

    ValueError, with an example, for a prompt that is not in the grammar: it can't be judged.
    """
    scene = parse(wanted) if isinstance(wanted, str) else wanted
    return compare(follow(clip), scene)


def compare(found: Found, scene: MovingScene) -> ClipCheck:
    """Compare what `follow` found with a scene."""
    movers = tuple(describe(track) for track in found.tracks)
    right = len(movers) == len(scene.actors) and found.missed <= MAX_MISSED
    orders = list(permutations(movers)) if right else [()]
    failures = [_failures(scene, found, order) for order in orders]
    return ClipCheck(found.background, movers, min(failures, key=len))


def describe(track: Track) -> Mover:
    """What a track shows."""
    shape, radii, angles = _outline(track)
    counts = np.bincount(track.colours, minlength=len(COLOURS))
    pure = counts.max() >= MIN_AGREEMENT * len(track.colours)
    radius = float(np.median(radii))
    fits = SIZE_RANGE[0] <= radius <= SIZE_RANGE[1]
    travel_x, stray_x = _line(track.times, track.x)
    travel_y, stray_y = _line(track.times, track.y)
    return Mover(
        colour=COLOURS[int(counts.argmax())] if pure else None,
        shape=shape,
        size=("large" if radius > SIZE_LIMIT else "small") if fits else None,
        motion=_motion(travel_x, travel_y, _line(track.times, angles)[0]),
        x=track.x,
        y=track.y,
        stray=float(np.hypot(stray_x, stray_y).max()),
        pulse=float(radii.std() / radii.mean()),
        tone_change=float(track.tones.std(0).max()),
    )


def _outline(track: Track) -> tuple[str | None, np.ndarray, np.ndarray]:
    """The shape that fits best over all frames, with its radius and unwrapped angle in each."""
    overlaps = track.outlines.overlaps
    best = int(overlaps.mean(0).argmax())
    sure = overlaps[:, best].mean() >= MIN_OVERLAP
    agreed = (overlaps.argmax(1) == best).mean() >= MIN_AGREEMENT
    arms = ARMS[SHAPES[best]]
    angles = track.outlines.angles[:, best]
    angles = np.unwrap(angles, period=2 * np.pi / arms) if arms else angles
    return SHAPES[best] if sure and agreed else None, track.outlines.radii[:, best], angles


def _line(times: np.ndarray, values: np.ndarray) -> tuple[float, np.ndarray]:
    """How far the fitted line goes over the whole clip, and the distances from it."""
    slope, start = np.polyfit(times, values, 1)
    return float(slope), np.asarray(values - start - slope * times)


def _motion(travel_x: float, travel_y: float, turn: float) -> str | None:
    travel, turn = float(np.hypot(travel_x, travel_y)), abs(turn)
    if travel < STILL_TRAVEL:
        if turn >= MIN_TURN:
            return TURNS
        return STILL if turn < STILL_TURN else None
    slant = min(abs(travel_x), abs(travel_y)) / max(abs(travel_x), abs(travel_y))
    if travel < MIN_TRAVEL or turn > STILL_TURN or slant > MAX_SLANT:
        return None
    way = max(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name], (travel_x, travel_y)))
    return f"moves {way}"


def _failures(scene: MovingScene, found: Found, movers: tuple[Mover, ...]) -> tuple[str, ...]:
    right = {
        "background": found.background is not None and scene.background in (None, found.background),
        "count": bool(movers),
    }
    pairs = list(zip(movers, scene.actors, strict=False))
    if movers:
        right["colour"] = all(mover.colour == actor.thing.colour for mover, actor in pairs)
        right["shape"] = all(mover.shape == actor.thing.shape for mover, actor in pairs)
        right["size"] = all(
            mover.size is not None and actor.thing.size in (None, mover.size)
            for mover, actor in pairs
        )
        right["motion"] = all(mover.motion == actor.motion for mover, actor in pairs)
        right["relation"] = scene.relation is None or _relation(*movers) == scene.relation
        right["track"] = all(mover.stray <= MAX_STRAY for mover in movers)
        right["flicker"] = found.change <= MAX_CHANGE and all(
            mover.pulse <= MAX_PULSE and mover.tone_change <= MAX_TONE_CHANGE for mover in movers
        )
    return tuple(part for part in PARTS if not right.get(part, True))


def _relation(first: Mover, second: Mover) -> str | None:
    """How the first lies to the second on average; None when that is not so in every frame."""
    dx, dy = first.x - second.x, first.y - second.y
    along, words = (dx, ("left of", "right of"))
    if abs(dy.mean()) > abs(dx.mean()):
        along, words = dy, ("above", "below")
    if not ((along < 0).all() or (along > 0).all()):
        return None
    return words[0] if along[0] < 0 else words[1]
