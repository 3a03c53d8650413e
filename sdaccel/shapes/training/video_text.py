"""Trains the video model's text encoder on text alone, to say what is where and how it moves.

As for the pictures the hidden states must answer questions, seven of them. Places are those that a
relation names; without one, the things are asked for in the order in which they are told.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import T5Tokenizer, UMT5EncoderModel

from sdaccel.shapes.grammar import COLOURS, SHAPES, SIZES
from sdaccel.shapes.training.loop import Loop, Losses, Recipe
from sdaccel.shapes.training.questions import Questions
from sdaccel.shapes.video.grammar import MOTIONS, MovingScene, side_of
from sdaccel.shapes.video.models import TEXT_WIDTH, build_text_encoder
from sdaccel.shapes.video.tokens import MAX_TOKENS, build_tokenizer

PLACES = ("top", "bottom", "left", "right", "first", "second", "background")
PLACES_OF = {
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    None: ("first", "second"),
}
CLASSES = (1 + len(COLOURS), 1 + len(SHAPES), 2 + len(SIZES), 1 + len(MOTIONS))


def answers(scene: MovingScene) -> np.ndarray:
    """The right classes, (7, 4): none or not said is 0; a size not named is the last class."""
    classes = np.zeros((len(PLACES), len(CLASSES)), np.int64)
    for actor, place in zip(scene.actors, PLACES_OF[scene.relation], strict=False):
        thing = actor.thing
        classes[PLACES.index(place)] = (
            1 + COLOURS.index(thing.colour),
            1 + SHAPES.index(thing.shape),
            1 + SIZES.index(thing.size) if thing.size else 1 + len(SIZES),
            1 + MOTIONS.index(actor.motion),
        )
    if scene.background:
        classes[-1, 0] = 1 + COLOURS.index(scene.background)
    return classes


def tokenize(tokenizer: T5Tokenizer, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Padded token ids and their mask, (B, 32) each."""
    found = tokenizer(
        prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    return found.input_ids, found.attention_mask


def encode(text_encoder: UMT5EncoderModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Hidden states with zeros for padding, as WanPipeline makes them."""
    hidden_states: Tensor = text_encoder(ids, mask).last_hidden_state
    return hidden_states * mask[..., None]


def train_text(folder: Path, recipe: Recipe) -> None:
    """Train the text encoder on prompts of the training side."""
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer()
    questions = Questions(TEXT_WIDTH, len(PLACES), CLASSES)
    modules = nn.ModuleDict({"text": build_text_encoder(tokenizer), "questions": questions})

    def losses(modules: nn.ModuleDict, generator: torch.Generator) -> Losses:
        device = generator.device
        seed = int(torch.randint(2**40, (), generator=generator, device=device))
        scenes = _training_scenes(np.random.default_rng(seed), recipe.batch_share)
        ids, mask = tokenize(tokenizer, [scene.prompt for scene in scenes])
        longest = int(mask.sum(1).max())
        ids, mask = ids[:, :longest], mask[:, :longest]
        wanted = torch.from_numpy(np.stack([answers(scene) for scene in scenes])).to(device)
        text: UMT5EncoderModel = modules["text"]  # type: ignore[assignment]
        return questions.losses(encode(text, ids.to(device), mask.to(device)), wanted)

    Loop("text", modules, recipe, folder).run(losses)


def _training_scenes(rng: np.random.Generator, count: int) -> list[MovingScene]:
    scenes: list[MovingScene] = []
    while len(scenes) < count:
        scene = MovingScene.sample(rng)
        if side_of(scene.prompt) == "training":
            scenes.append(scene)
    return scenes
