"""Which shape a region has, how large it is and how it is turned, in all frames at once.

A shape with n equal arms or corners has a moment, the sum of r^2 exp(i n angle) over its area,
whose phase turns n times as fast as the shape. The outline of each shape, at the region's own area,
centre and angle, is laid over the region; the shape that overlaps best is the region's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from sdaccel.shapes.geometry import signed_distance
from sdaccel.shapes.grammar import SHAPES
from sdaccel.shapes.video.paths import PIVOT_Y

ARMS = {"circle": 0, "ring": 0, "square": 4, "cross": 4, "triangle": 3, "star": 5}


@dataclass(frozen=True)
class Outlines:
    """Fits of every shape, in the order of SHAPES: (frames, 6) each.

    `overlaps` is intersection over union, `radii` are shares of the side, `angles` in radians,
    clockwise, up to the shape's symmetry.
    """

    overlaps: np.ndarray
    radii: np.ndarray
    angles: np.ndarray


def fit_outlines(masks: np.ndarray, x: np.ndarray, y: np.ndarray) -> Outlines:
    """Fit every shape to the region of each frame, masks (frames, H, W) with centres in pixels."""
    side = masks.shape[1]
    areas = masks.sum((1, 2))
    reach = int(np.ceil(1.4 * np.sqrt(areas.max() / min(_unit(shape)[0] for shape in SHAPES)))) + 1
    reach = min(reach, side // 2)
    around = np.arange(-reach, reach + 1)
    padded = np.pad(masks, ((0, 0), (reach, reach), (reach, reach)))
    columns, rows = (np.rint(at).astype(int)[:, None] + around for at in (x, y))
    cut = padded[
        np.arange(len(masks))[:, None, None],
        rows[..., None] + reach,
        columns[:, None] + reach,
    ]
    off_x, off_y = np.broadcast_arrays(
        columns[:, None] - x[:, None, None], rows[..., None] - y[:, None, None]
    )
    fits = [_fit(shape, cut, areas, off_x, off_y) for shape in SHAPES]
    overlaps, radii, angles = (np.stack(values, 1) for values in zip(*fits, strict=True))
    return Outlines(overlaps, radii / side, angles)


def _fit(
    shape: str, masks: np.ndarray, areas: np.ndarray, off_x: np.ndarray, off_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    unit_area, unit_phase = _unit(shape)
    radii = np.sqrt(areas / unit_area)
    arms = ARMS[shape]
    moments = (_waves(off_x, off_y, arms) * masks).sum((1, 2))
    angles = (np.angle(moments) - unit_phase) / arms if arms else np.zeros(len(masks))
    cosine, sine = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    u, v = off_x / radii[:, None, None], off_y / radii[:, None, None]
    inside = signed_distance(shape, cosine * u + sine * v, cosine * v - sine * u + PIVOT_Y[shape])
    inside = inside <= 0
    overlaps = (inside & masks).sum((1, 2)) / (inside | masks).sum((1, 2))
    return overlaps, radii, angles


def _waves(x: np.ndarray, y: np.ndarray, arms: int) -> np.ndarray:
    """r^2 exp(i arms angle) at each point."""
    return np.asarray((x * x + y * y) * np.exp(1j * arms * np.arctan2(y, x)))


@cache
def _unit(shape: str) -> tuple[float, float]:
    """Area of a shape of radius 1, and the phase of its moment when it stands upright."""
    axis = np.linspace(-1.3, 1.3, 261)
    x, y = np.meshgrid(axis, axis)
    inside = signed_distance(shape, x, y + PIVOT_Y[shape]) <= 0
    phase = np.angle((_waves(x, y, ARMS[shape]) * inside).sum()) if ARMS[shape] else 0.0
    return float(inside.sum() * 0.01**2), float(phase)
