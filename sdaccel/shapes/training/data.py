"""Training data: pictures for the autoencoder, latents with prompts and layouts for the UNet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sdaccel.shapes.geometry import Placed, coverage
from sdaccel.shapes.grammar import COLOURS, SHAPES, SIZES, Scene, is_held_out
from sdaccel.shapes.renderer import render


def sample_sized(rng: np.random.Generator) -> Scene:
    """A scene of the training side whose sizes are all named, as pictures have definite sizes."""
    while True:
        scene = Scene.sample(rng)
        things = tuple(
            replace(thing, size=thing.size or SIZES[int(rng.integers(2))]) for thing in scene.things
        )
        scene = replace(scene, things=things)
        if not is_held_out(scene.prompt):
            return scene


def reword(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another wording of a scene: told from either thing, size words left out at times."""
    told = scene.inverse if rng.random() < 0.5 else scene
    things = tuple(
        replace(thing, size=thing.size if rng.random() < 0.75 else None) for thing in told.things
    )
    told = replace(told, things=things)
    return scene if is_held_out(told.prompt) else told


def render_pictures(path: Path, count: int, seed: int, size: int = 64) -> np.ndarray:
    """Render training pictures once, as (count, size, size, 3) uint8 in a memory-mapped file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        pictures = np.empty((count, size, size, 3), np.uint8)
        for index in tqdm(range(count), desc="render"):
            pictures[index] = render(sample_sized(rng), seed * 1_000_003 + index, size)
        np.save(path.with_suffix(".part.npy"), pictures)
        path.with_suffix(".part.npy").replace(path)
    stored: np.ndarray = np.load(path, mmap_mode="r")
    return stored


def layout(placed: Iterable[Placed], size: int) -> np.ndarray:
    """What covers most of each cell, (2, size, size) uint8: colour and shape, 0 for background."""
    cells = np.zeros((2, size, size), np.uint8)
    for one in placed:
        covered = coverage(one, 4 * size).reshape(size, 4, size, 4).mean((1, 3)) > 0.4
        cells[0][covered] = 1 + COLOURS.index(one.thing.colour)
        cells[1][covered] = 1 + SHAPES.index(one.thing.shape)
    return cells
