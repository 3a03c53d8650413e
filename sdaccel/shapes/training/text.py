"""Trains the text encoders on text alone, to say what stands where.

The encoder's hidden states must answer six learned questions (what is at the top, bottom, left,
right, centre; which background) through one cross-attention and one linear layer: just what a
denoiser does with them later. The questions are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdaccel.shapes.grammar import COLOURS, SHAPES, SIZES, Scene, is_held_out
from sdaccel.shapes.models import TEXT_WIDTH
from sdaccel.shapes.training.loop import Loop, Recipe

PLACES = ("top", "bottom", "left", "right", "centre")
PLACES_OF = {
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    None: ("centre",),
}
CLASSES = (1 + len(COLOURS), 1 + len(SHAPES), 2 + len(SIZES))


class Questions(nn.Module):
    """Hidden states (B, tokens, width) to class scores (B, 6, 20): colour, shape, size."""

    def __init__(self, width: int = TEXT_WIDTH) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(PLACES) + 1, width) * 0.5)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.answer = nn.Linear(width, sum(CLASSES))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Attend from each question to the text and classify what comes back."""
        queries = self.queries.expand(len(hidden_states), -1, -1)
        scores: Tensor = self.answer(self.attention(queries, hidden_states, hidden_states)[0])
        return scores


def answers(scene: Scene) -> np.ndarray:
    """The right classes, (6, 3): none is 0; a size that is not named is the last class."""
    classes = np.zeros((len(PLACES) + 1, 3), np.int64)
    for thing, where in zip(scene.things, PLACES_OF[scene.relation], strict=True):
        size = 1 + SIZES.index(thing.size) if thing.size else 1 + len(SIZES)
        classes[PLACES.index(where)] = (
            1 + COLOURS.index(thing.colour),
            1 + SHAPES.index(thing.shape),
            size,
        )
    classes[-1, 0] = 1 + COLOURS.index(scene.background)
    return classes


def token_ids(tokenizer: Any, prompts: list[str]) -> Tensor:
    """Padded token ids, (B, 24)."""
    ids: Tensor = tokenizer(
        prompts, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def train_text(
    folder: Path,
    recipe: Recipe,
    stage: str,
    build_tokenizer: Callable[[], Any],
    build_encoder: Callable[[Any], nn.Module],
) -> None:
    """Train a text encoder on prompts of the training side."""
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer()
    modules = nn.ModuleDict({"text": build_encoder(tokenizer), "questions": Questions()})

    def losses(modules: nn.ModuleDict, generator: torch.Generator) -> dict[str, Tensor]:
        device = generator.device
        rng = np.random.default_rng(
            int(torch.randint(2**40, (), generator=generator, device=device))
        )
        scenes = _training_scenes(rng, recipe.batch_share)
        tokens = token_ids(tokenizer, [scene.prompt for scene in scenes]).to(device)
        wanted = torch.from_numpy(np.stack([answers(scene) for scene in scenes])).to(device)
        scores = modules["questions"](modules["text"](tokens).last_hidden_state)
        parts = scores.split(CLASSES, -1)
        mistakes = [
            functional.cross_entropy(part.flatten(0, 1), wanted[..., index].flatten())
            for index, part in enumerate(parts)
        ]
        right = [part.argmax(-1) == wanted[..., index] for index, part in enumerate(parts)]
        return {
            "loss": torch.stack(mistakes).sum(),
            "right": torch.stack(right).all(0).all(-1).float().mean(),
        }

    Loop(stage, modules, recipe, folder).run(losses)


def _training_scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = Scene.sample(rng)
        if not is_held_out(scene.prompt):
            scenes.append(scene)
    return scenes
