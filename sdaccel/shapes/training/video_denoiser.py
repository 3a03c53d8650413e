"""Trains the video transformer to predict the flow, noise minus latents.

A discarded linear head on the features of a middle block must name the colour and shape in the
cells of each token of the clean clip, at both ends of the time it stands for, and the background,
as for the UNet of the pictures (after Yu et al. 2024, REPA): what goes where is learned early.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdaccel.shapes.grammar import COLOURS, SHAPES
from sdaccel.shapes.training.denoiser import DROPPED_PROMPTS, attention_for, stratified
from sdaccel.shapes.training.loop import Loop, Recipe
from sdaccel.shapes.training.video_latents import CELLS, Batch, TrainingClips
from sdaccel.shapes.video.models import build_transformer

CELL_CLASSES = (1 + len(COLOURS), 1 + len(SHAPES))
LAYOUT_WEIGHT = 0.5
STILL_CENTRE = 0.3
"""The logit of the noise level that one frame of latents is learned at most often."""

EncodeText = Callable[[list[str]], Tensor]


class LayoutHead(nn.Module):
    """Features of a block, (B, tokens, width), to layout scores."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cells = nn.Linear(width, 2 * CELLS**2 * sum(CELL_CLASSES))
        self.background = nn.Linear(width, len(COLOURS))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of colour and shape, (B, tokens, 8, classes), and of the background, (B, 8)."""
        features = self.norm(features)
        cells = self.cells(features).unflatten(-1, (2 * CELLS**2, -1))
        colour, shape = cells.split(CELL_CLASSES, -1)
        return colour, shape, self.background(features.mean(1))


def train_transformer(
    folder: Path,
    recipe: Recipe,
    autoencoder: Any,
    encode_text: EncodeText,
    evaluate: Callable[[nn.Module], dict[str, Any]],
    evaluate_minutes: float = 15.0,
    **changes: Any,
) -> Loop:
    """Train on clips that the frozen autoencoder encodes."""
    torch.manual_seed(recipe.seed)
    clips = TrainingClips(autoencoder, recipe.batch_share)
    transformer = build_transformer(**changes)
    head = LayoutHead(
        transformer.config.num_attention_heads * transformer.config.attention_head_dim
    )
    modules = nn.ModuleDict({"transformer": transformer, "layout": head})
    loop = Loop("transformer", modules, recipe, folder)
    features: list[Tensor] = []
    middle = transformer.blocks[(2 * len(transformer.blocks) - 1) // 3]
    middle.register_forward_hook(lambda *call: features.append(call[-1]))

    def losses(modules: nn.ModuleDict, generator: torch.Generator) -> dict[str, Tensor]:
        batch = clips.draw(generator)
        noisy, sigmas, flow = diffuse(batch.latents, generator)
        text = encode_text(drop_prompts(batch.prompts, generator))
        features.clear()
        with attention_for(noisy.device):
            predicted = modules["transformer"](noisy, 1000 * sigmas, text).sample
        scores = modules["layout"](features.pop())
        flow_loss = functional.mse_loss(predicted.float(), flow)
        layout_loss = layout_cross_entropy(scores, batch)
        loss = flow_loss + LAYOUT_WEIGHT * layout_loss
        return {"loss": loss, "flow": flow_loss, "layout": layout_loss}

    loop.run(losses, lambda: evaluate(loop.average["transformer"]), evaluate_minutes)
    return loop


def diffuse(latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, noise levels 0 to 1 stratified over the batch, and noise minus latents.

    Levels are logit-normal: most lie where outlines are decided. The more frames tell of the same
    things, the higher that is, by the square root of their number (Esser et al. 2024).
    """
    even = stratified(len(latents), generator).clamp(1e-4, 1 - 1e-4)
    centre = STILL_CENTRE + math.log(latents.shape[2]) / 2
    sigmas = torch.sigmoid(centre + torch.special.ndtri(even))
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    noisy = torch.lerp(latents, noise, sigmas.view(-1, 1, 1, 1, 1))
    return noisy, sigmas, noise - latents


def drop_prompts(prompts: list[str], generator: torch.Generator) -> list[str]:
    """Leave a tenth of the prompts empty, for classifier-free guidance."""
    kept = torch.rand(len(prompts), generator=generator, device=generator.device) >= DROPPED_PROMPTS
    return [prompt if keep else "" for prompt, keep in zip(prompts, kept.tolist(), strict=True)]


def layout_cross_entropy(scores: tuple[Tensor, Tensor, Tensor], batch: Batch) -> Tensor:
    """Cross-entropy of colour and shape in each cell and of the background."""
    colour, shape, background = (score.float() for score in scores)
    return (
        functional.cross_entropy(colour.flatten(0, 2), batch.layouts[:, 0].flatten())
        + functional.cross_entropy(shape.flatten(0, 2), batch.layouts[:, 1].flatten())
        + 0.2 * functional.cross_entropy(background, batch.backgrounds)
    )
