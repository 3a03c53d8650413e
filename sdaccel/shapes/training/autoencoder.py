"""Trains the autoencoder, and afterwards its decoder alone on slightly wrong latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from sdaccel.shapes.grammar import sample_scenes
from sdaccel.shapes.models import build_autoencoder
from sdaccel.shapes.renderer import render
from sdaccel.shapes.training.data import render_pictures
from sdaccel.shapes.training.edges import edge_weights
from sdaccel.shapes.training.loop import Loop, Losses, Recipe

KL_WEIGHT = 5e-4
LATENT_NOISE = 0.25


def to_tensor(pictures: np.ndarray, device: str) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in -1..1, channels last."""
    tensor = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2)
    return (tensor / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train_autoencoder(folder: Path, recipe: Recipe, pictures: int, **changes: Any) -> None:
    """Train encoder and decoder on L1, L2 and a small KL, and log PSNR on held-out scenes."""
    torch.manual_seed(recipe.seed)
    data = render_pictures(folder / "pictures.npy", pictures, recipe.seed)
    modules = nn.ModuleDict({"autoencoder": build_autoencoder(**changes)})
    loop = Loop("autoencoder", modules, recipe, folder)

    def losses(modules: nn.ModuleDict, generator: torch.Generator) -> Losses:
        batch = draw_batch(data, recipe.batch_share, generator)
        autoencoder: Any = modules["autoencoder"]
        posterior = autoencoder.encode(batch).latent_dist
        decoded = autoencoder.decode(posterior.sample(generator)).sample
        found = compare(decoded, batch)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {**found, "loss": found["loss"] + KL_WEIGHT * kl, "kl": kl}

    loop.run(losses, lambda: {"held_out_psnr": held_out_psnr(loop.average["autoencoder"])}, 3)


def compare(decoded: Tensor, pictures: Tensor) -> Losses:
    """L1 and L2 between decoded and true pictures, edges above all, and the PSNR in dB."""
    error = decoded.float() - pictures
    square = error.square()
    loss = (edge_weights(pictures) * (error.abs() + square)).mean()
    return {"loss": loss, "psnr": -10 * (square.detach().mean() / 4).log10()}


def draw_batch(data: np.ndarray, batch_size: int, generator: torch.Generator) -> Tensor:
    """A random batch of pictures as a tensor on the generator's device."""
    picked = torch.randint(len(data), (batch_size,), generator=generator, device=generator.device)
    return to_tensor(data[np.sort(picked.cpu().numpy())], str(generator.device))


@torch.no_grad()
def held_out_psnr(autoencoder: Any, count: int = 128) -> float:
    """Mean PSNR in dB of pictures of held-out prompts, encoded (mean) and decoded."""
    scenes = sample_scenes(np.random.default_rng(1), count, side="held-out")
    pictures = np.stack([render(scene, index) for index, scene in enumerate(scenes)])
    device = str(next(autoencoder.parameters()).device)
    errors = []
    for chunk in np.array_split(pictures, max(1, count // 32)):
        batch = to_tensor(chunk, device)
        decoded = autoencoder.decode(autoencoder.encode(batch).latent_dist.mode()).sample
        errors.append(((decoded.clamp(-1, 1) - batch) / 2).square().mean((1, 2, 3)))
    return float(-10 * torch.cat(errors).log10().mean())


def refine_decoder(folder: Path, recipe: Recipe, pictures: int) -> None:
    """Train the decoder alone, on latents with a little noise, so that drawn ones decode cleanly.

    The encoder stays as it is, so a UNet trained on its latents still fits.
    """
    torch.manual_seed(recipe.seed)
    data = render_pictures(folder / "pictures.npy", pictures, recipe.seed)
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae")
    autoencoder.encoder.requires_grad_(False)
    autoencoder.quant_conv.requires_grad_(False)
    modules = nn.ModuleDict({"autoencoder": autoencoder})
    loop = Loop("decoder", modules, recipe, folder)

    def losses(modules: nn.ModuleDict, generator: torch.Generator) -> Losses:
        batch = draw_batch(data, recipe.batch_share, generator)
        with torch.no_grad():
            latents = autoencoder.encode(batch).latent_dist.mode()
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        return compare(autoencoder.decode(latents + LATENT_NOISE * noise).sample, batch)

    loop.run(losses, lambda: {"held_out_psnr": held_out_psnr(loop.average["autoencoder"])}, 5)
