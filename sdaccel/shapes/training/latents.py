"""The denoisers' training set: scenes rendered and encoded once, with wordings and layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from sdaccel.shapes.grammar import COLOURS
from sdaccel.shapes.models import LATENT_SIZE
from sdaccel.shapes.renderer import Drawing, draw
from sdaccel.shapes.training import parallel
from sdaccel.shapes.training.autoencoder import to_tensor
from sdaccel.shapes.training.data import layout, reword, sample_sized

WORDINGS = 4
CHUNK = 32


@torch.no_grad()
def standardise(autoencoder: AutoencoderKL, pictures: Tensor) -> None:
    """Fold a scale and shift into the 1x1 convolutions so that each latent has mean 0 and std 1.

    The stock pipeline divides by one scaling factor and knows no shift; this makes both trivial.
    """
    means = autoencoder.encode(pictures).latent_dist.mode()
    shift, scale = means.mean((0, 2, 3)), means.std((0, 2, 3))
    enter, leave = autoencoder.post_quant_conv, autoencoder.quant_conv
    enter.bias += (enter.weight[:, :, 0, 0] * shift).sum(1)
    enter.weight *= scale[None, :, None, None]
    channels = len(scale)
    leave.bias[:channels] = (leave.bias[:channels] - shift) / scale
    leave.bias[channels:] -= 2 * scale.log()
    leave.weight[:channels] /= scale[:, None, None, None]
    autoencoder.register_to_config(scaling_factor=1.0)


def encode_dataset(folder: Path, autoencoder: AutoencoderKL, count: int, seed: int) -> None:
    """Write this process' share of `count` scenes, in files of about 2,000, skipping those done."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, count, 2000)[parallel.rank() :: parallel.world()]
    for start in tqdm(starts, desc="encode", disable=bool(parallel.rank())):
        path = folder / f"{start:07d}.npz"
        if not path.exists():
            indices = range(start, min(start + 2000, count))
            shard = _encode(autoencoder, indices, seed)
            np.savez(path.with_suffix(".part.npz"), **shard)  # type: ignore[arg-type]
            path.with_suffix(".part.npz").replace(path)


def load_dataset(folder: Path) -> dict[str, np.ndarray]:
    """All shards together: latents (N, 4, 16, 16) fp16, prompts (N, 4), layouts, backgrounds."""
    paths = sorted(path for path in folder.glob("*.npz") if ".part" not in path.name)
    if not paths:
        raise FileNotFoundError(f"no encoded scenes in {folder}; run the stage 'encode' first")
    shards = [np.load(path) for path in paths]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0].files}


def _encode(autoencoder: AutoencoderKL, indices: range, seed: int) -> dict[str, np.ndarray]:
    drawings: list[Drawing] = []
    prompts: list[list[str]] = []
    backgrounds: list[int] = []
    for index in indices:
        rng = np.random.default_rng([seed, 7, index])
        scene = sample_sized(rng)
        drawings.append(draw(scene, seed * 1_000_003 + index))
        prompts.append([scene.prompt, *(reword(scene, rng).prompt for _ in range(WORDINGS - 1))])
        backgrounds.append(COLOURS.index(scene.background))
    return {
        "latents": _latents(autoencoder, [drawing.pixels for drawing in drawings]),
        "prompts": np.array(prompts),
        "layouts": np.stack([layout(drawing.placed, LATENT_SIZE) for drawing in drawings]),
        "backgrounds": np.array(backgrounds, np.uint8),
    }


@torch.no_grad()
def _latents(autoencoder: AutoencoderKL, pictures: list[np.ndarray]) -> np.ndarray:
    device = str(next(autoencoder.parameters()).device)
    chunks = []
    for start in range(0, len(pictures), CHUNK):
        batch = to_tensor(np.stack(pictures[start : start + CHUNK]), device)
        chunks.append(autoencoder.encode(batch).latent_dist.mode().half().cpu().numpy())
    return np.concatenate(chunks)
