"""What the video model's transformer learns from: latents, wordings and layouts of clips.

A clip is drawn and encoded when it is first wanted, which takes two thirds of the time of learning
from it, and kept: it comes again with another noise and in other words.

Most batches hold only the beginnings of clips: what a star looks like is learned from stills for a
ninth of the time of whole clips. The autoencoder is causal, so the latents of a beginning are the
beginning of the latents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdaccel.shapes.geometry import signed_distance
from sdaccel.shapes.grammar import COLOURS, SHAPES
from sdaccel.shapes.training import parallel
from sdaccel.shapes.training.video_data import sample_definite, to_tensor
from sdaccel.shapes.video.grammar import MovingScene, side_of
from sdaccel.shapes.video.models import LATENT_CHANNELS, LATENT_FRAMES, LATENT_SIZE, PATCH
from sdaccel.shapes.video.paths import Path
from sdaccel.shapes.video.renderer import FRAMES, Clip, draw_clip, local_coordinates

CELLS = 2
STANDS_FOR = (FRAMES - 1) // (LATENT_FRAMES - 1)
MIN_COVERED = 0.4
KINDS = ((1.0, LATENT_FRAMES), (3.2, 3), (9.0, 1), (9.0, 1))
"""Batches, each as long to compute: the share of the recipe's clips, and frames of latents. Stills,
which outlines are learned from, come twice as often."""
DISTINCT = 4000
"""How many clips of each kind a process learns from, with 41 kB of latents each at most."""


@dataclass(frozen=True)
class Batch:
    """Standardised latents (B, 16, F, 12, 12) of F = 1 to 9 frames, prompts, and what is where.

    `layouts` is (B, 2, 36 F, 8): colour and shape, 0 for background, in 2 x 2 cells of each token
    at the first and the last frame that it stands for; `backgrounds` is (B,).
    """

    latents: Tensor
    prompts: list[str]
    layouts: Tensor
    backgrounds: Tensor


@dataclass(frozen=True)
class Encoded:
    """Some clips as they are kept: scenes with all that is true of them, and as in `Batch`."""

    latents: Tensor
    scenes: list[MovingScene]
    layouts: Tensor
    backgrounds: Tensor


class TrainingClips:
    """The clips that one process learns from, the same whenever the training goes on.

    A batch has `count` of them if they are whole ones.
    """

    def __init__(self, autoencoder: Any, count: int) -> None:
        self.autoencoder, self.count = autoencoder, count
        self.kept: dict[tuple[int, int], Encoded] = {}

    def draw(self, generator: torch.Generator) -> Batch:
        """A batch of one of KINDS, in wordings of its own."""
        device = generator.device
        kind, number, seed = torch.randint(2**40, (3,), generator=generator, device=device).tolist()
        share, latent_frames = KINDS[kind % len(KINDS)]
        count = max(1, int(self.count * share))
        key = latent_frames, number % max(1, DISTINCT // count)
        if key not in self.kept:
            self.kept[key] = self._encode(count, *key)
        clips, rng = self.kept[key], np.random.default_rng(seed)
        return Batch(
            latents=clips.latents.to(device, torch.float32),
            prompts=[reword(scene, rng).prompt for scene in clips.scenes],
            layouts=clips.layouts.to(device, torch.int64),
            backgrounds=clips.backgrounds.to(device),
        )

    def _encode(self, count: int, latent_frames: int, number: int) -> Encoded:
        rng = np.random.default_rng((parallel.rank(), latent_frames, number))
        scenes = [sample_definite(rng) for _ in range(count)]
        clips = [draw_clip(scene, int(rng.integers(2**31))) for scene in scenes]
        pixels = np.stack([clip.pixels[: frames_of(latent_frames)] for clip in clips])
        layouts = np.stack([layout(clip, latent_frames) for clip in clips])
        return Encoded(
            latents=encode(self.autoencoder, pixels).half().cpu(),
            scenes=scenes,
            layouts=torch.from_numpy(layouts.astype(np.uint8)),
            backgrounds=torch.tensor([COLOURS.index(clip.background) for clip in clips]),
        )


def frames_of(latent_frames: int) -> int:
    """How many frames of a clip as many frames of latents stand for."""
    return 1 + (latent_frames - 1) * STANDS_FOR


def reword(scene: MovingScene, rng: np.random.Generator) -> MovingScene:
    """Another true wording: told from either thing, with words left out, never a held-out one."""
    told = scene.inverse if rng.random() < 0.5 else scene
    actors = tuple(
        replace(
            actor,
            thing=replace(actor.thing, size=actor.thing.size if rng.random() < 0.6 else None),
        )
        for actor in told.actors
    )
    background = told.background if rng.random() < 0.8 else None
    told = replace(told, actors=actors, background=background)
    return told if side_of(told.prompt) == "training" else scene


@torch.no_grad()
def encode(autoencoder: Any, clips: np.ndarray) -> Tensor:
    """Clips (B, 2 F - 1, 96, 96, 3) uint8 to standardised latents (B, 16, F, 12, 12)."""
    device = next(autoencoder.parameters()).device
    with torch.autocast(device.type, torch.bfloat16):
        latents = autoencoder.encode(to_tensor(clips, str(device))).latent_dist.mode().float()
    mean, std = (
        torch.tensor(values, device=device).view(1, -1, 1, 1, 1)
        for values in (autoencoder.config.latents_mean, autoencoder.config.latents_std)
    )
    standardised: Tensor = (latents - mean) / std
    return standardised


@torch.no_grad()
def standardise(autoencoder: Any, clips: np.ndarray) -> None:
    """Write mean and standard deviation of each latent channel into the configuration."""
    autoencoder.register_to_config(
        latents_mean=[0.0] * LATENT_CHANNELS, latents_std=[1.0] * LATENT_CHANNELS
    )
    latents = torch.cat([encode(autoencoder, chunk) for chunk in np.split(clips, len(clips) // 8)])
    autoencoder.register_to_config(
        latents_mean=latents.mean((0, 2, 3, 4)).tolist(),
        latents_std=latents.std((0, 2, 3, 4)).tolist(),
    )


def layout(clip: Clip, latent_frames: int = LATENT_FRAMES) -> np.ndarray:
    """Colour and shape in each cell of the first frames, (2, 36 F, 8) int64 as `Batch` says."""
    starts = range(1, frames_of(latent_frames), STANDS_FOR)
    ends = np.array([(0, 0), *((start, start + STANDS_FOR - 1) for start in starts)])
    tokens = LATENT_SIZE // PATCH
    side = tokens * CELLS
    cells = np.zeros((2, *ends.shape, side, side), np.int64)
    for path in clip.paths:
        covered = _covered(path, ends, side)
        cells[0][covered] = 1 + COLOURS.index(path.colour)
        cells[1][covered] = 1 + SHAPES.index(path.shape)
    split = cells.reshape(2, *ends.shape, tokens, CELLS, tokens, CELLS)
    ordered = split.transpose(0, 1, 3, 5, 2, 4, 6)
    return np.asarray(ordered.reshape(2, len(ends) * tokens**2, 2 * CELLS**2))


def _covered(path: Path, frames: np.ndarray, side: int) -> np.ndarray:
    """Which cells a thing covers at the given frames: (*frames.shape, side, side)."""
    points = (np.arange(4 * side, dtype=np.float32) + 0.5) / (4 * side)
    every = path.x.shape[0]
    x, y = np.broadcast_arrays(points[None, None], points[None, :, None])
    shown = np.unique(frames)
    part = replace(path, x=path.x[shown], y=path.y[shown], angle=path.angle[shown])
    inside = signed_distance(path.shape, *local_coordinates(part, x, y)) <= 0
    shares = inside.reshape(len(shown), side, 4, side, 4).mean((2, 4))
    covered = np.zeros((every, side, side), bool)
    covered[shown] = shares > MIN_COVERED
    return np.asarray(covered[frames])
