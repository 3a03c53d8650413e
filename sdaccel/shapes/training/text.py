"""Trains the text encoders on text alone, to say what stands where.

The encoder's hidden states must answer six learned questions (what is at the top, bottom, left,
right, centre; which background); see `questions`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdaccel.shapes.grammar import COLOURS, SHAPES, SIZES, Scene, is_held_out
from sdaccel.shapes.models import TEXT_WIDTH
from sdaccel.shapes.training.loop import Loop, Losses, Recipe
from sdaccel.shapes.training.questions import Questions

PLACES = ("top", "bottom", "left", "right", "centre")
PLACES_OF = {
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    None: ("centre",),
}
CLASSES = (1 + len(COLOURS), 1 + len(SHAPES), 2 + len(SIZES))


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
    questions = Questions(TEXT_WIDTH, len(PLACES) + 1, CLASSES)
    modules = nn.ModuleDict({"text": build_encoder(tokenizer), "questions": questions})

    def losses(modules: nn.ModuleDict, generator: torch.Generator) -> Losses:
        device = generator.device
        rng = np.random.default_rng(
            int(torch.randint(2**40, (), generator=generator, device=device))
        )
        scenes = _training_scenes(rng, recipe.batch_share)
        tokens = token_ids(tokenizer, [scene.prompt for scene in scenes]).to(device)
        wanted = torch.from_numpy(np.stack([answers(scene) for scene in scenes])).to(device)
        return questions.losses(modules["text"](tokens).last_hidden_state, wanted)

    Loop(stage, modules, recipe, folder).run(losses)


def _training_scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = Scene.sample(rng)
        if not is_held_out(scene.prompt):
            scenes.append(scene)
    return scenes
