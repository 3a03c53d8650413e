"""Trains a denoiser on the frozen autoencoder's latents.

Because compute is small, a discarded linear head on the denoiser's features must name the colour
and shape at each latent position, and the background, of the clean picture: the denoiser learns
early what to draw where (after Yu et al. 2024, REPA, with the scene's own layout as what features
are aligned with).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sdaccel.shapes.grammar import COLOURS, SHAPES
from sdaccel.shapes.training.loop import Loop, Recipe

LAYOUT_CLASSES = (1 + len(COLOURS), 1 + len(SHAPES), len(COLOURS))
DROPPED_PROMPTS = 0.1


class LayoutHead(nn.Module):
    """Features (B, C, 16 / patch, 16 / patch) to layout scores at 16 x 16 positions."""

    def __init__(self, channels: int, patch: int = 1) -> None:
        super().__init__()
        self.patch = patch
        self.norm = nn.GroupNorm(16, channels)
        self.scores = nn.Conv2d(channels, sum(LAYOUT_CLASSES) * patch**2, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the colour, the shape and the background at each position."""
        scores = functional.pixel_shuffle(self.scores(self.norm(features)), self.patch)
        colour, shape, background = scores.split(LAYOUT_CLASSES, 1)
        return colour, shape, background.mean((2, 3))


@dataclass(frozen=True)
class Task:
    """What one kind of denoiser learns.

    `diffuse` makes noisy latents, timesteps and the target of a batch of latents; `predict` calls
    the denoiser with them and the prompts; `features` makes a map (B, C, H, W) for the layout head
    of what the module `tapped` returns.
    """

    name: str
    denoiser: nn.Module
    head: LayoutHead
    tapped: nn.Module
    features: Callable[[Any], Tensor]
    diffuse: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor, Tensor]]
    predict: Callable[[nn.Module, Tensor, Tensor, list[str]], Tensor]
    layout_weight: float = 0.2


def train_denoiser(
    folder: Path,
    recipe: Recipe,
    task: Task,
    data: dict[str, np.ndarray],
    evaluate: Callable[[nn.Module], dict[str, Any]],
    evaluate_minutes: float = 10.0,
) -> Loop:
    """Train on `data` of `encode_dataset`, measuring the averaged denoiser on the way."""
    modules = nn.ModuleDict({task.name: task.denoiser, "layout": task.head})
    loop = Loop(task.name, modules, recipe, folder)
    tapped: list[Any] = []
    task.tapped.register_forward_hook(lambda *call: tapped.append(call[-1]))

    def losses(modules: nn.ModuleDict, generator: torch.Generator) -> dict[str, Tensor]:
        batch = draw_batch(data, recipe.batch_share, generator)
        noisy, timesteps, target = task.diffuse(batch["latents"], generator)
        tapped.clear()
        with attention_for(generator.device):
            predicted = task.predict(modules[task.name], noisy, timesteps, batch["prompts"])
        noise_loss = functional.mse_loss(predicted.float(), target)
        layout_loss = layout_cross_entropy(modules["layout"](task.features(tapped.pop())), batch)
        loss = noise_loss + task.layout_weight * layout_loss
        return {"loss": loss, "noise": noise_loss, "layout": layout_loss}

    loop.run(losses, lambda: evaluate(loop.average[task.name]), evaluate_minutes)
    return loop


class PlainAttention(TorchFunctionMode):
    """SDPA without a mask as its formula, in the inputs' own type: what trains fastest on a CPU.

    Its backward pass is matrix products. Forward and backward of 16 x 4 heads of 324 tokens and 64
    channels in bf16, one core of an EPYC with AVX-512 bf16 (torch 2.13): 33 ms; torch's flash
    attention 81, its own formula, which looks for rows that are masked out, 97.
    """

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        """Call what was called, or the formula in the place of SDPA."""
        if function is functional.scaled_dot_product_attention:
            function = _attend
        return function(*arguments, **(options or {}))


def _attend(query: Tensor, key: Tensor, value: Tensor, *more: Any, **options: Any) -> Tensor:
    """SDPA; by its formula unless there is a mask, a dropout or another option."""
    if any(isinstance(option, Tensor) or option for option in (*more, *options.values())):
        return functional.scaled_dot_product_attention(query, key, value, *more, **options)
    with torch.autocast(query.device.type, enabled=False):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        attended: Tensor = scores.softmax(-1) @ value
    return attended


def attention_for(device: torch.device) -> AbstractContextManager[Any]:
    """`PlainAttention` on a CPU; elsewhere torch chooses."""
    return PlainAttention() if device.type == "cpu" else nullcontext()


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """One uniform number from each of `count` equal parts of 0..1."""
    spread = torch.rand(count, generator=generator, device=generator.device)
    return (torch.arange(count, device=generator.device) + spread) / count


def layout_cross_entropy(scores: tuple[Tensor, Tensor, Tensor], batch: dict[str, Any]) -> Tensor:
    """Cross-entropy of colour and shape at each position and of the background."""
    colour, shape, background = (part.float() for part in scores)
    return (
        functional.cross_entropy(colour, batch["layouts"][:, 0])
        + functional.cross_entropy(shape, batch["layouts"][:, 1])
        + 0.2 * functional.cross_entropy(background, batch["backgrounds"])
    )


def draw_batch(
    data: dict[str, np.ndarray], batch_size: int, generator: torch.Generator
) -> dict[str, Any]:
    """Random latents with one of their wordings each; a tenth of the prompts is left empty."""
    device = generator.device

    def draw(below: int) -> np.ndarray:
        picked = torch.randint(below, (batch_size,), generator=generator, device=device)
        return picked.cpu().numpy()

    rows, wordings = draw(len(data["latents"])), draw(data["prompts"].shape[1])
    dropped = draw(1000) < 1000 * DROPPED_PROMPTS
    drawn = {
        "latents": data["latents"][rows].astype(np.float32),
        "layouts": data["layouts"][rows].astype(np.int64),
        "backgrounds": data["backgrounds"][rows].astype(np.int64),
    }
    prompts = np.where(dropped, "", data["prompts"][rows, wordings]).tolist()
    tensors = {name: torch.from_numpy(values).to(device) for name, values in drawn.items()}
    return {**tensors, "prompts": prompts}
