"""Trains the video autoencoder on clips and parts of clips, and later its decoder alone.

The loss is L1 and L2 of the frames, L1 of the change from frame to frame (against flicker), and for
the encoder a small KL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from sdaccel.shapes.training import parallel
from sdaccel.shapes.training.edges import frame_weights
from sdaccel.shapes.training.loop import Loop, Losses, Recipe
from sdaccel.shapes.training.video_data import sample_definite, to_tensor
from sdaccel.shapes.video.grammar import Actor, sample_scenes
from sdaccel.shapes.video.models import build_autoencoder
from sdaccel.shapes.video.renderer import FRAMES, SIZE, draw_clip, render_clip

KL_WEIGHT = 2e-4
CHANGE_WEIGHT = 0.5
LATENT_NOISE = 0.25
FINE = ("star", "cross")
FINE_SHARE = 0.5
KINDS = (
    (2.0, 1, SIZE),
    (2.0, 5, 48),
    (1.0, 5, 48),
    (0.5, FRAMES, 48),
    (0.5, 9, SIZE),
    (0.25, FRAMES, SIZE),
)
"""Batches: the share of the recipe's clips, frames, and pixels a side."""


def train_autoencoder(folder: Path, recipe: Recipe, **changes: Any) -> None:
    """Train encoder and decoder; log PSNR and flicker on held-out clips every 5 minutes."""
    torch.manual_seed(recipe.seed)
    modules = nn.ModuleDict({"autoencoder": build_autoencoder(**changes)})
    loop = Loop("autoencoder", modules, recipe, folder)

    def losses(modules: nn.ModuleDict, generator: torch.Generator) -> Losses:
        batch = draw_batch(recipe.batch_share, generator)
        autoencoder: Any = modules["autoencoder"]
        posterior = autoencoder.encode(batch).latent_dist
        found = compare(autoencoder.decode(posterior.sample(generator)).sample, batch)
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = found["loss"] + KL_WEIGHT * kl + touched(autoencoder)
        return {**found, "loss": loss, "kl": kl}

    loop.run(losses, lambda: measure(loop.average["autoencoder"]), 5)


def refine_decoder(folder: Path, recipe: Recipe) -> None:
    """Train the decoder alone, on latents with a little noise, so that drawn ones decode cleanly.

    The encoder stays as it is, so a transformer trained on its latents still fits.
    """
    torch.manual_seed(recipe.seed)
    autoencoder: Any = AutoencoderKLWan.from_pretrained(folder / "vae")
    autoencoder.encoder.requires_grad_(False)
    autoencoder.quant_conv.requires_grad_(False)
    loop = Loop("decoder", nn.ModuleDict({"autoencoder": autoencoder}), recipe, folder)
    deviation = torch.tensor(autoencoder.config.latents_std, device=recipe.device)

    def losses(modules: nn.ModuleDict, generator: torch.Generator) -> Losses:
        batch = draw_batch(recipe.batch_share, generator)
        with torch.no_grad():
            latents = autoencoder.encode(batch).latent_dist.mode().float()
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        noise = LATENT_NOISE * deviation.view(1, -1, 1, 1, 1) * noise
        found = compare(autoencoder.decode(latents + noise).sample, batch)
        return {**found, "loss": found["loss"] + touched(autoencoder)}

    loop.run(losses, lambda: measure(loop.average["autoencoder"]), 5)


def touched(module: nn.Module) -> Tensor | float:
    """Zero with a gradient of zero for every weight, when processes average their gradients.

    A single frame passes by some convolutions, and all processes must average the same weights.
    """
    if parallel.world() == 1:
        return 0.0
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    return 0.0 * torch.stack([weight.sum() for weight in trained]).sum()


def compare(decoded: Tensor, clips: Tensor) -> Losses:
    """Losses between decoded and true clips (B, 3, F, H, W), and the PSNR in dB."""
    error = decoded.float() - clips
    square = error.square()
    changes = error.diff(dim=2).abs()
    change = changes.sum() / max(1, changes.numel())
    return {
        "loss": (frame_weights(clips) * (error.abs() + square)).mean() + CHANGE_WEIGHT * change,
        "change": change,
        "psnr": -10 * (square.detach().mean() / 4).log10(),
    }


def draw_batch(clips: int, generator: torch.Generator) -> Tensor:
    """Clips or parts of clips of one of KINDS, `clips` or fewer: (B, 3, F, H, W) in -1..1.

    Single frames and small parts with some of a thing teach shapes for a third of the time of whole
    clips; long ones teach the causal convolutions not to drift, whole ones the attention.
    """
    kind, seed = torch.randint(2**31, (2,), generator=generator, device=generator.device).tolist()
    share, frames, side = KINDS[kind % len(KINDS)]
    rng = np.random.default_rng(seed)
    drawn = [_part(rng, frames, side) for _ in range(max(1, int(clips * share)))]
    return to_tensor(np.stack(drawn), str(generator.device))


def _part(rng: np.random.Generator, frames: int, side: int) -> np.ndarray:
    """Some frames of a square that shows at least some of a thing, (frames, side, side, 3).

    Half of them show a small star or cross, whose arms are what an autoencoder learns last.
    """
    wanted = rng.random() < FINE_SHARE
    scene = sample_definite(rng)
    while wanted and not any(map(_is_fine, scene.actors)):
        scene = sample_definite(rng)
    clip = draw_clip(scene, int(rng.integers(2**31)))
    start = int(rng.integers(FRAMES - frames + 1))
    shown = [
        path
        for path, actor in zip(clip.paths, scene.actors, strict=True)
        if not wanted or _is_fine(actor)
    ]
    path = shown[int(rng.integers(len(shown)))]
    shift = rng.uniform(-side / 3, side / 3, 2)
    at = start + frames // 2
    centre = np.array((path.y[at], path.x[at])) * SIZE + shift
    top, left = np.clip(centre - side / 2, 0, SIZE - side).astype(int)
    return clip.pixels[start : start + frames, top : top + side, left : left + side]


def _is_fine(actor: Actor) -> bool:
    return actor.thing.size == "small" and actor.thing.shape in FINE


@torch.no_grad()
def measure(autoencoder: Any, count: int = 24) -> dict[str, float]:
    """Mean PSNR in dB of held-out clips, and how much more they flicker than they should.

    Flicker is the mean absolute error of the change from frame to frame, of 255 grey levels.
    """
    scenes = sample_scenes(np.random.default_rng(1), count, side="held-out")
    device = str(next(autoencoder.parameters()).device)
    errors, flickers = [], []
    for index, scene in enumerate(scenes):
        clip = to_tensor(render_clip(scene, index)[None], device)
        decoded = autoencoder.decode(autoencoder.encode(clip).latent_dist.mode()).sample
        errors.append(((decoded - clip) / 2).square().mean())
        flickers.append((decoded.diff(dim=2) - clip.diff(dim=2)).abs().mean() * 127.5)
    psnr = -10 * torch.stack(errors).log10().mean()
    return {"held_out_psnr": float(psnr), "held_out_flicker": float(torch.stack(flickers).mean())}
