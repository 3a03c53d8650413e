"""Clips to train the video model on: drawn when they are needed, faster than any model learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sdaccel.shapes.grammar import SIZES
from sdaccel.shapes.video.grammar import MovingScene, side_of
from sdaccel.shapes.video.renderer import render_clip


def sample_definite(rng: np.random.Generator) -> MovingScene:
    """A scene of the training side whose sizes are all named, as clips have definite sizes."""
    while True:
        scene = MovingScene.sample(rng)
        actors = tuple(
            replace(
                actor,
                thing=replace(actor.thing, size=actor.thing.size or SIZES[int(rng.integers(2))]),
            )
            for actor in scene.actors
        )
        scene = replace(scene, actors=actors)
        if side_of(scene.prompt) == "training":
            return scene


def draw_clips(rng: np.random.Generator, count: int) -> np.ndarray:
    """Clips of fresh training scenes, (count, 17, 96, 96, 3) uint8."""
    return np.stack(
        [render_clip(sample_definite(rng), int(rng.integers(2**31))) for _ in range(count)]
    )


def to_tensor(clips: np.ndarray, device: str) -> Tensor:
    """(B, F, H, W, 3) uint8 to (B, 3, F, H, W) in -1..1."""
    return (torch.from_numpy(clips).to(device).permute(0, 4, 1, 2, 3) / 127.5 - 1).contiguous()
