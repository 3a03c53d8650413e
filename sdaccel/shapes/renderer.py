"""Draws a scene: anti-aliased shapes, light from the upper left, a soft texture on every surface.

A picture depends on the scene, the seed and the size alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdaccel.shapes.geometry import Placed, coverage, depth, place
from sdaccel.shapes.grammar import Scene

PALETTE = {
    "red": (0.86, 0.14, 0.14),
    "yellow": (0.96, 0.82, 0.14),
    "green": (0.13, 0.62, 0.20),
    "cyan": (0.20, 0.80, 0.86),
    "blue": (0.12, 0.22, 0.82),
    "purple": (0.66, 0.20, 0.74),
    "white": (0.93, 0.93, 0.93),
    "black": (0.09, 0.09, 0.10),
}
TINT_JITTER = 0.02
TEXTURE = 0.022
SHADE = 0.12
RIM = 0.10


@dataclass(frozen=True)
class Drawing:
    """A picture, (size, size, 3) uint8, and where its things stand."""

    pixels: np.ndarray
    placed: tuple[Placed, ...]


def render(scene: Scene, seed: int = 0, size: int = 64) -> np.ndarray:
    """Draw a scene as (size, size, 3) uint8; the same scene, seed and size give the same bytes."""
    return draw(scene, seed, size).pixels


def draw(scene: Scene, seed: int = 0, size: int = 64) -> Drawing:
    """Draw a scene and say where its things stand."""
    if size < 16:
        raise ValueError(f"a picture needs a side of at least 16 pixels, not {size}")
    rng = np.random.default_rng([seed, 20])
    placed = place(scene, rng)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.broadcast_arrays(axis[None], axis[:, None])
    canvas = surface(scene.background, SHADE * (1.0 - x - y), x, y, rng)
    for one in placed:
        light = SHADE * ((one.x - x) + (one.y - y)) / one.radius
        rim = RIM * np.exp(np.minimum(depth(one, size), 0.0) * 40.0)
        painted = surface(one.thing.colour, light - rim, x, y, rng)
        canvas += coverage(one, size)[..., None] * (painted - canvas)
    return Drawing((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8), placed)


def surface(
    colour: str, shade: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A lit, softly textured surface of one colour, (size, size, 3) in about 0 to 1."""
    base = np.array(PALETTE[colour], np.float32) + rng.uniform(-TINT_JITTER, TINT_JITTER, 3)
    angles, phases = rng.uniform(0, np.pi, 2), rng.uniform(0, 2 * np.pi, 2)
    waves = 2 * np.pi / rng.uniform(0.15, 0.30, 2)
    texture = sum(
        np.sin((x * np.cos(angle) + y * np.sin(angle)) * wave + phase)
        for angle, wave, phase in zip(angles, waves, phases, strict=True)
    )
    lit = base * (1 + shade[..., None]) + 0.15 * shade[..., None]
    return np.asarray(lit + TEXTURE * texture[..., None], np.float32)
