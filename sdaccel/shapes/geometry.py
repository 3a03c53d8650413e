"""The six shapes as signed distances, and where the things of a scene stand in the frame.

Lengths are shares of the frame's side; x grows to the right and y downwards. A shape of radius 1
around the origin is the unit; distances are negative inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdaccel.shapes.grammar import SIZES, Scene, Thing

RADIUS = {"large": 0.205, "small": 0.135}
RADIUS_JITTER = 0.04
CENTRE_JITTER = {1: 0.08, 2: 0.03}
OFF_AXIS_JITTER = 0.06
GAP = 0.04

_TRIANGLE = np.array([(0.0, -1.0), (1.05, 0.82), (-1.05, 0.82)])
_ANGLES = np.pi * (np.arange(10) / 5 - 0.5)
_STAR = (
    np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)
    * np.where(np.arange(10) % 2, 0.46, 1.1)[:, None]
)


@dataclass(frozen=True)
class Placed:
    """A thing with its centre and radius."""

    thing: Thing
    x: float
    y: float
    radius: float


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance from each point to the outline of a shape of radius 1."""
    if shape == "circle":
        return np.asarray(np.hypot(x, y) - 1.0)
    if shape == "ring":
        return np.asarray(np.abs(np.hypot(x, y) - 0.76) - 0.26)
    if shape == "square":
        return _box(x, y, 0.88, 0.88)
    if shape == "cross":
        return np.asarray(np.minimum(_box(x, y, 1.0, 0.34), _box(x, y, 0.34, 1.0)))
    return _polygon(_TRIANGLE if shape == "triangle" else _STAR, x, y)


def place(scene: Scene, rng: np.random.Generator) -> tuple[Placed, ...]:
    """Put the things of a scene into the frame: inside, apart, and in the scene's relation."""
    radii = [_radius(thing, rng) for thing in scene.things]
    jitter = CENTRE_JITTER[len(scene.things)]
    if scene.relation is None:
        x, y = 0.5 + rng.uniform(-jitter, jitter, 2)
        return (Placed(scene.things[0], x, y, radii[0]),)
    near, far = _along(radii, rng.uniform(-jitter, jitter, 2))
    across = 0.5 + rng.uniform(-OFF_AXIS_JITTER, OFF_AXIS_JITTER, 2)
    along = (near, far) if scene.relation in ("above", "left of") else (far, near)
    xs, ys = (across, along) if scene.relation in ("above", "below") else (along, across)
    return tuple(
        Placed(thing, float(x), float(y), radius)
        for thing, radius, x, y in zip(scene.things, radii, xs, ys, strict=True)
    )


def coverage(placed: Placed, size: int) -> np.ndarray:
    """Share of each pixel that a thing covers, (size, size), anti-aliased over one pixel."""
    return np.clip(0.5 - depth(placed, size) * size, 0.0, 1.0)


def depth(placed: Placed, size: int) -> np.ndarray:
    """Signed distance from each pixel centre to a thing's outline, in shares of the frame."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = (axis[None] - placed.x) / placed.radius, (axis[:, None] - placed.y) / placed.radius
    return signed_distance(placed.thing.shape, *np.broadcast_arrays(x, y)) * placed.radius


def _radius(thing: Thing, rng: np.random.Generator) -> float:
    size = thing.size or SIZES[int(rng.integers(len(SIZES)))]
    return RADIUS[size] * float(1 + rng.uniform(-RADIUS_JITTER, RADIUS_JITTER))


def _along(radii: list[float], jitter: np.ndarray) -> tuple[float, float]:
    """Centres of two things along the axis of their relation, pushed apart to keep the gap."""
    near, far = 0.26 + jitter[0], 0.74 + jitter[1]
    push = max(0.0, sum(radii) * 1.1 + GAP - (far - near)) / 2
    return near - push, far + push


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    over_x, over_y = np.abs(x) - half_width, np.abs(y) - half_height
    outside = np.hypot(np.maximum(over_x, 0), np.maximum(over_y, 0))
    return np.asarray(outside + np.minimum(np.maximum(over_x, over_y), 0))


def _polygon(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the nearest edge, signed by the even-odd rule (after Quilez, 2D SDFs)."""
    squared = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
        edge_x, edge_y, from_x, from_y = x1 - x0, y1 - y0, x - x0, y - y0
        share = np.clip((from_x * edge_x + from_y * edge_y) / (edge_x**2 + edge_y**2), 0, 1)
        distance = (from_x - edge_x * share) ** 2 + (from_y - edge_y * share) ** 2
        squared = np.minimum(squared, distance)
        if edge_y:
            inside ^= ((y0 > y) != (y1 > y)) & (from_x < edge_x * from_y / edge_y)
    return np.asarray(np.where(inside, -1.0, 1.0) * np.sqrt(squared))
