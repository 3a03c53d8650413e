"""Finds in a picture what a prompt asked for: deterministic, numpy alone.

Each pixel gets the nearest palette colour, under any of a few strengths of light. The background
is the commonest colour along the frame; what differs from it falls into connected regions; each
region's shape is the one whose outline, fitted by area and centre, overlaps it best.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np

from sdaccel.shapes.geometry import RADIUS, signed_distance
from sdaccel.shapes.grammar import COLOURS, SHAPES, Scene, parse
from sdaccel.shapes.renderer import PALETTE

PARTS = ("count", "background", "colour", "shape", "size", "relation")
LIGHTS = (0.8, 0.9, 1.0, 1.1)
STRAY_SHARE = 0.015
SPECK_SHARE = 0.006
MIN_PURITY = 0.75
MIN_FRAME = 0.85
MIN_OVERLAP = 0.72
SCALES = (0.95, 1.0, 1.05)
OFFSETS = ((0.0, 0.0), (0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5))
SIZE_LIMIT = float(np.sqrt(RADIUS["large"] * RADIUS["small"]))
SIZE_RANGE = (0.75 * RADIUS["small"], 1.3 * RADIUS["large"])


@dataclass(frozen=True)
class Region:
    """One connected thing found in a picture; lengths are shares of the frame's side."""

    colour: str | None
    shape: str | None
    radius: float
    x: float
    y: float

    @property
    def size(self) -> str | None:
        """The size word that fits, None when the thing is far too small or too large."""
        if not SIZE_RANGE[0] <= self.radius <= SIZE_RANGE[1]:
            return None
        return "large" if self.radius > SIZE_LIMIT else "small"


@dataclass(frozen=True)
class Check:
    """What was found, and which of PARTS went wrong."""

    background: str | None
    regions: tuple[Region, ...]
    failed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the picture shows everything the prompt says."""
        return not self.failed


def check(picture: Any, wanted: Scene | str) -> Check:
    """Compare a picture (PIL, or (H, W, 3) as uint8 or 0..1) with a scene or its prompt."""
    return compare(*find(picture), wanted)


def compare(background: str | None, regions: tuple[Region, ...], wanted: Scene | str) -> Check:
    """Compare what `find` found with a scene or its prompt."""
    scene = parse(wanted) if isinstance(wanted, str) else wanted
    failures = [_failures(scene, background, told) for told in _orders(scene, regions)]
    return Check(background, regions, min(failures, key=len))


def find(picture: Any) -> tuple[str | None, tuple[Region, ...]]:
    """The background's colour, None when the frame is not of one colour, and the things on it."""
    pixels = _pixels(picture)
    colours = nearest_colours(pixels)
    frame = np.concatenate([colours[0], colours[-1], colours[:, 0], colours[:, -1]])
    counts = np.bincount(frame, minlength=len(COLOURS))
    background = int(counts.argmax())
    if counts[background] < MIN_FRAME * len(frame):
        return None, ()
    foreground = colours != background
    masks = list(connected(foreground))
    kept = [mask for mask in masks if mask.mean() >= SPECK_SHARE]
    stray = sum(mask.mean() for mask in masks) - sum(mask.mean() for mask in kept)
    regions = tuple(_region(mask, colours) for mask in kept)
    return COLOURS[background], regions if stray <= STRAY_SHARE else ()


def nearest_colours(pixels: np.ndarray) -> np.ndarray:
    """Index into COLOURS for each pixel of (H, W, 3) in 0..1, whatever the light."""
    base = np.array([PALETTE[colour] for colour in COLOURS])
    lit = np.stack([base * light + 0.15 * (light - 1) for light in LIGHTS])
    references = _lab(np.clip(lit, 0, 1).reshape(-1, 3))
    lab = _lab(pixels.reshape(-1, 3))
    distances = ((lab[:, None] - references[None]) ** 2).sum(-1)
    nearest = distances.reshape(len(lab), len(LIGHTS), -1).min(1).argmin(1)
    return np.asarray(nearest.reshape(pixels.shape[:2]))


def connected(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The 4-connected regions of a boolean mask, largest first."""
    height, width = mask.shape
    left = mask.copy()
    regions = []
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        left[start] = False
        stack, members = [start], []
        while stack:
            row, column = stack.pop()
            members.append((row, column))
            for y, x in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                if 0 <= y < height and 0 <= x < width and left[y, x]:
                    left[y, x] = False
                    stack.append((y, x))
        regions.append(members)
    for members in sorted(regions, key=len, reverse=True):
        region = np.zeros_like(mask)
        region[tuple(np.array(members).T)] = True
        yield region


def fit_shape(mask: np.ndarray) -> tuple[str, float, float]:
    """The best fitting shape, its overlap (intersection over union) and radius in pixels."""
    rows, columns = np.nonzero(mask)
    margin = 2 + int(0.25 * np.sqrt(len(rows)))
    top, left = max(0, rows.min() - margin), max(0, columns.min() - margin)
    crop = mask[top : rows.max() + margin + 1, left : columns.max() + margin + 1]
    overlaps = {shape: _fit(crop, shape, SCALES[1:2], OFFSETS[:1]) for shape in SHAPES}
    likely = sorted(SHAPES, key=lambda shape: overlaps[shape], reverse=True)[:2]
    (overlap, radius), shape = max((_fit(crop, shape, SCALES, OFFSETS), shape) for shape in likely)
    return shape, overlap, radius


def _fit(
    mask: np.ndarray,
    shape: str,
    scales: tuple[float, ...],
    offsets: tuple[tuple[float, float], ...],
) -> tuple[float, float]:
    """Best overlap of a shape with a mask, and its radius, near the mask's own area and centre."""
    area, off_x, off_y = _moments(shape)
    rows, columns = np.nonzero(mask)
    ys, xs = np.mgrid[: mask.shape[0], : mask.shape[1]]
    best = (0.0, 0.0)
    for radius in (scale * float(np.sqrt(len(rows) / area)) for scale in scales):
        x0, y0 = columns.mean() - off_x * radius, rows.mean() - off_y * radius
        for dx, dy in offsets:
            inside = signed_distance(shape, (xs - x0 - dx) / radius, (ys - y0 - dy) / radius) <= 0
            overlap = float((inside & mask).sum() / (inside | mask).sum())
            best = max(best, (overlap, radius))
    return best


@cache
def _moments(shape: str) -> tuple[float, float, float]:
    """Area and centroid of a shape of radius 1."""
    axis = np.linspace(-1.2, 1.2, 121)
    xs, ys = np.meshgrid(axis, axis)
    inside = signed_distance(shape, xs, ys) <= 0
    return float(inside.sum() * 0.02**2), float(xs[inside].mean()), float(ys[inside].mean())


def _region(mask: np.ndarray, colours: np.ndarray) -> Region:
    core = _eroded(mask)
    counts = np.bincount(colours[core if core.sum() >= 12 else mask], minlength=len(COLOURS))
    pure = counts.max() >= MIN_PURITY * counts.sum()
    shape, overlap, radius = fit_shape(mask)
    rows, columns = np.nonzero(mask)
    side = len(mask)
    return Region(
        colour=COLOURS[int(counts.argmax())] if pure else None,
        shape=shape if overlap >= MIN_OVERLAP else None,
        radius=radius / side,
        x=float(columns.mean() + 0.5) / side,
        y=float(rows.mean() + 0.5) / side,
    )


def _eroded(mask: np.ndarray) -> np.ndarray:
    core: np.ndarray = mask.copy()
    core[1:] &= mask[:-1]
    core[:-1] &= mask[1:]
    core[:, 1:] &= mask[:, :-1]
    core[:, :-1] &= mask[:, 1:]
    return core


def _orders(scene: Scene, regions: tuple[Region, ...]) -> list[tuple[Region, ...]]:
    """Every way to match the regions with the things; one empty match when the number is wrong."""
    return list(permutations(regions)) if len(regions) == len(scene.things) else [()]


def _failures(scene: Scene, background: str | None, regions: tuple[Region, ...]) -> tuple[str, ...]:
    right = {"background": background == scene.background, "count": bool(regions)}
    pairs = list(zip(regions, scene.things, strict=False))
    if regions:
        right["colour"] = all(region.colour == thing.colour for region, thing in pairs)
        right["shape"] = all(region.shape == thing.shape for region, thing in pairs)
        right["size"] = all(
            region.size is not None and thing.size in (None, region.size) for region, thing in pairs
        )
        right["relation"] = scene.relation is None or _relation(*regions) == scene.relation
    return tuple(part for part in PARTS if not right.get(part, True))


def _relation(first: Region, second: Region) -> str:
    """How the first region lies to the second, along the axis on which they are further apart."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dy) > abs(dx):
        return "above" if dy < 0 else "below"
    return "left of" if dx < 0 else "right of"


def _pixels(picture: Any) -> np.ndarray:
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[2] < 3:
        raise ValueError(f"a picture is an array (height, width, 3), not one of {pixels.shape}")
    scale = 255.0 if pixels.dtype == np.uint8 else 1.0
    return np.clip(pixels[..., :3].astype(np.float64) / scale, 0, 1)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..1 to CIELAB (D65), lightness at half weight because light varies."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)]
    )
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root[:, 0], root[:, 1], root[:, 2]
    return np.stack([0.5 * (116 * y - 16), 500 * (x - y), 200 * (y - z)], 1)
