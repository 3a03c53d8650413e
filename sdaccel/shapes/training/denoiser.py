"""Trains the UNet to predict v on the frozen autoencoder's latents.

Because compute is small, a discarded linear head on the UNet's features must name the colour and
shape at each latent position, and the background, of the clean picture: the UNet learns early
what to draw where (after Yu et al. 2024, REPA, with the scene's own layout as representation).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdaccel.shapes.grammar import COLOURS, SHAPES
from sdaccel.shapes.models import build_scheduler, build_unet
from sdaccel.shapes.training.loop import Loop, Recipe

LAYOUT_CLASSES = (1 + len(COLOURS), 1 + len(SHAPES), len(COLOURS))
LAYOUT_WEIGHT = 0.2
DROPPED_PROMPTS = 0.1


class LayoutHead(nn.Module):
    """Features of the UNet's second-last up block, (B, C, 16, 16), to layout scores."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(16, channels)
        self.scores = nn.Conv2d(channels, sum(LAYOUT_CLASSES), 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the colour, the shape and the background at each position."""
        colour, shape, background = self.scores(self.norm(features)).split(LAYOUT_CLASSES, 1)
        return colour, shape, background.mean((2, 3))


def train_unet(
    folder: Path,
    recipe: Recipe,
    data: dict[str, np.ndarray],
    encode_text: Callable[[Tensor], Tensor],
    evaluate: Callable[[nn.Module], dict[str, Any]],
    evaluate_minutes: float = 10.0,
    **unet_changes: Any,
) -> Loop:
    """Train on `data` of `encode_dataset`; `encode_text` maps token ids to hidden states."""
    torch.manual_seed(recipe.seed)
    unet = build_unet(**unet_changes)
    head = LayoutHead(unet.config.block_out_channels[-2])
    loop = Loop("unet", nn.ModuleDict({"unet": unet, "layout": head}), recipe, folder)
    features: list[Tensor] = []
    unet.up_blocks[-2].register_forward_hook(lambda *call: features.append(call[-1]))
    alphas = build_scheduler().alphas_cumprod.to(recipe.device)

    def losses(modules: nn.ModuleDict, generator: torch.Generator) -> dict[str, Tensor]:
        batch = draw_batch(data, recipe.batch_share, generator)
        noisy, timesteps, velocity = diffuse(batch["latents"], alphas, generator)
        features.clear()
        predicted = modules["unet"](noisy, timesteps, encode_text(batch["tokens"])).sample
        v_loss = functional.mse_loss(predicted, velocity)
        layout_loss = layout_cross_entropy(modules["layout"](features.pop()), batch)
        return {"loss": v_loss + LAYOUT_WEIGHT * layout_loss, "v": v_loss, "layout": layout_loss}

    loop.run(losses, lambda: evaluate(loop.average["unet"]), evaluate_minutes)
    return loop


def diffuse(
    latents: Tensor, alphas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, timesteps stratified over the batch, and v = sqrt(a) noise - sqrt(1-a) x."""
    count, device = len(latents), latents.device
    spread = torch.rand(count, generator=generator, device=device)
    timesteps = ((torch.arange(count, device=device) + spread) / count * len(alphas)).long()
    noise = torch.randn(latents.shape, generator=generator, device=device)
    signal = alphas[timesteps].sqrt()[:, None, None, None]
    strength = (1 - alphas[timesteps]).sqrt()[:, None, None, None]
    noisy = (signal * latents + strength * noise).contiguous(memory_format=torch.channels_last)
    return noisy, timesteps, signal * noise - strength * latents


def layout_cross_entropy(scores: tuple[Tensor, Tensor, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of colour and shape at each position and of the background."""
    colour, shape, background = scores
    return (
        functional.cross_entropy(colour, batch["layouts"][:, 0])
        + functional.cross_entropy(shape, batch["layouts"][:, 1])
        + 0.2 * functional.cross_entropy(background, batch["backgrounds"])
    )


def draw_batch(
    data: dict[str, np.ndarray], batch_size: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Random latents with one of their wordings each; a tenth of the prompts is left empty."""
    device = generator.device

    def draw(below: int) -> np.ndarray:
        picked = torch.randint(below, (batch_size,), generator=generator, device=device)
        return picked.cpu().numpy()

    rows, wordings = draw(len(data["latents"])), draw(data["tokens"].shape[1])
    tokens = data["tokens"][rows, wordings]
    dropped = draw(1000) < 1000 * DROPPED_PROMPTS
    tokens = np.where(dropped[:, None], data["empty"], tokens)
    drawn = {
        "latents": data["latents"][rows].astype(np.float32),
        "tokens": tokens.astype(np.int64),
        "layouts": data["layouts"][rows].astype(np.int64),
        "backgrounds": data["backgrounds"][rows].astype(np.int64),
    }
    return {name: torch.from_numpy(values).to(device) for name, values in drawn.items()}
