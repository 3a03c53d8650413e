"""Follows what moves in a clip from frame to frame: deterministic, numpy alone.

Each pixel gets the nearest palette colour; what differs from the background falls into connected
regions, and the regions of all frames are joined to tracks by the shortest way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np

from sdaccel.shapes.checker import MIN_FRAME, STRAY_SHARE, nearest_colours
from sdaccel.shapes.grammar import COLOURS
from sdaccel.shapes.video.outlines import Outlines, fit_outlines

SPECK_SHARE = 0.005
MAX_THINGS = 4
LEVELS = 32


@dataclass(frozen=True)
class Track:
    """One thing on its way: a value a frame in which it was seen; lengths are shares of the side.

    `colours` indexes COLOURS, `tones` is the mean colour (RGB in 0..1), `times` goes from 0 to 1.
    """

    times: np.ndarray
    x: np.ndarray
    y: np.ndarray
    colours: np.ndarray
    tones: np.ndarray
    outlines: Outlines


@dataclass(frozen=True)
class Found:
    """What a clip shows; `background` is None when there is none of one colour in every frame.

    `missed` is the share of frames with another number of things than most, or with stray colour;
    `change` the mean change of the background from frame to frame, of 1.
    """

    background: str | None
    tracks: tuple[Track, ...] = ()
    missed: float = 1.0
    change: float = 1.0


def follow(clip: Any) -> Found:
    """Find background and tracks in (frames, H, W, 3), uint8 or 0..1, or a list of pictures."""
    pixels = to_pixels(clip)
    if not np.isfinite(pixels).all():
        return Found(None)
    colours = _name_colours(pixels)
    edges = (colours[:, 0], colours[:, -1], colours[:, :, 0], colours[:, :, -1])
    frame = np.concatenate(edges, 1)
    background = int(np.bincount(frame.ravel()).argmax())
    if (frame == background).mean(1).min() < MIN_FRAME:
        return Found(None)
    foreground = colours != background
    still = ~(foreground[1:] | foreground[:-1])
    change = float(np.abs(np.diff(pixels, axis=0))[still].mean()) if still.any() else 1.0
    regions = _regions(foreground)
    count = int(np.median([len(found) for found in regions]))
    seen = [index for index, found in enumerate(regions) if len(found) == count]
    name, missed = COLOURS[background], 1 - len(seen) / len(pixels)
    if not 0 < count <= MAX_THINGS or missed > 0.5:
        return Found(name, (), 1.0, change)
    joined = _join([regions[index] for index in seen])
    times = np.array(seen) / (len(pixels) - 1)
    tracks = tuple(_track(masks, times, colours[seen], pixels[seen]) for masks in joined)
    return Found(name, tracks, missed, change)


def to_pixels(clip: Any) -> np.ndarray:
    """A clip as (frames, H, W, 3) float32 in 0..1; ValueError for anything else."""
    pixels = clip if isinstance(clip, np.ndarray) else np.stack([np.asarray(one) for one in clip])
    if pixels.ndim != 4 or pixels.shape[-1] < 3 or len(pixels) < 2:
        raise ValueError(
            f"a clip is an array (frames, height, width, 3), not one of {pixels.shape}"
        )
    scale = 255.0 if pixels.dtype == np.uint8 else 1.0
    return np.asarray(np.clip(pixels[..., :3].astype(np.float32) / scale, 0, 1))


def label(masks: np.ndarray) -> np.ndarray:
    """Number the 4-connected regions of each mask (frames, H, W); 0 is outside."""
    labels = np.where(masks, np.arange(1, masks.size + 1).reshape(masks.shape), 0)
    while True:
        spread = labels.copy()
        np.maximum(spread[:, 1:], labels[:, :-1], out=spread[:, 1:])
        np.maximum(spread[:, :-1], labels[:, 1:], out=spread[:, :-1])
        np.maximum(spread[:, :, 1:], labels[:, :, :-1], out=spread[:, :, 1:])
        np.maximum(spread[:, :, :-1], labels[:, :, 1:], out=spread[:, :, :-1])
        spread *= masks
        if np.array_equal(spread, labels):
            return labels
        labels = spread


def _name_colours(pixels: np.ndarray) -> np.ndarray:
    """Index into COLOURS for each pixel, by a table of 32 levels a channel."""
    levels = (pixels * (LEVELS - 1) + 0.5).astype(np.int64)
    return np.asarray(_table()[levels[..., 0], levels[..., 1], levels[..., 2]])


@cache
def _table() -> np.ndarray:
    level = np.linspace(0, 1, LEVELS)
    cube = np.stack(np.meshgrid(level, level, level, indexing="ij"), -1)
    named = nearest_colours(cube.reshape(LEVELS * LEVELS, LEVELS, 3))
    return named.reshape(LEVELS, LEVELS, LEVELS).astype(np.uint8)


def _regions(foreground: np.ndarray) -> list[list[np.ndarray]]:
    """The masks of the things in each frame; none where much else is about."""
    labels = label(foreground)
    area = foreground[0].size
    regions = []
    for frame in labels:
        numbers, counts = np.unique(frame[frame > 0], return_counts=True)
        large = counts >= SPECK_SHARE * area
        stray = counts[~large].sum() > STRAY_SHARE * area
        regions.append([] if stray else [frame == number for number in numbers[large]])
    return regions


def _join(regions: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Order the masks of every frame like those of the frame before, (frames, H, W) a thing."""
    ordered = [regions[0]]
    places = np.array([_centre(mask) for mask in regions[0]])
    for found in regions[1:]:
        centres = np.array([_centre(mask) for mask in found])
        order = min(
            permutations(range(len(found))),
            key=lambda order: np.hypot(*(centres[list(order)] - places).T).sum(),
        )
        ordered.append([found[index] for index in order])
        places = centres[list(order)]
    return [np.stack(masks) for masks in zip(*ordered, strict=True)]


def _centre(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def _track(masks: np.ndarray, times: np.ndarray, colours: np.ndarray, pixels: np.ndarray) -> Track:
    x, y = np.array([_centre(mask) for mask in masks]).T
    cores = _eroded(masks)
    cores = np.where(cores.sum((1, 2), keepdims=True) >= 12, cores, masks)
    counts = [
        np.bincount(frame[core], minlength=len(COLOURS))
        for frame, core in zip(colours, cores, strict=True)
    ]
    side = masks.shape[1]
    return Track(
        times=times,
        x=(x + 0.5) / side,
        y=(y + 0.5) / side,
        colours=np.argmax(counts, 1),
        tones=np.stack([frame[core].mean(0) for frame, core in zip(pixels, cores, strict=True)]),
        outlines=fit_outlines(masks, x, y),
    )


def _eroded(masks: np.ndarray) -> np.ndarray:
    cores: np.ndarray = masks.copy()
    cores[:, 1:] &= masks[:, :-1]
    cores[:, :-1] &= masks[:, 1:]
    cores[:, :, 1:] &= masks[:, :, :-1]
    cores[:, :, :-1] &= masks[:, :, 1:]
    return cores
