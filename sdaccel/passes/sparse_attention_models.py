"""The video transformers whose self-attention can be sparse, and how their tokens lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .video_blocks import VideoGrid

if TYPE_CHECKING:
    import torch

Reads = Callable[[Any, dict[str, Any]], VideoGrid | None]
"""Of a model and the arguments of its forward, the grid of the tokens of its self-attentions."""


@dataclass(frozen=True)
class VideoModel:
    """A model's self-attentions, in their order, and what reads the grid of a forward."""

    attentions: list[torch.nn.Module]
    grid: Reads


def video_model(model: Any) -> VideoModel | None:
    """What is known of a model; None for one that is none of them."""
    from diffusers import (
        CogVideoXTransformer3DModel,
        LTXVideoTransformer3DModel,
        WanTransformer3DModel,
    )

    if isinstance(model, WanTransformer3DModel):
        return VideoModel([each.attn1 for each in model.blocks], _wan)
    readers = ((CogVideoXTransformer3DModel, _cogvideox), (LTXVideoTransformer3DModel, _ltx))
    for kind, reads in readers:
        if isinstance(model, kind):
            return VideoModel([each.attn1 for each in model.transformer_blocks], reads)
    return None


def _wan(model: Any, given: dict[str, Any]) -> VideoGrid | None:
    """Latents (B, C, F, H, W), cut into patches."""
    sides = given["hidden_states"].shape[2:]
    cut = (side // patch for side, patch in zip(sides, model.config.patch_size, strict=True))
    return VideoGrid(*cut)


def _cogvideox(model: Any, given: dict[str, Any]) -> VideoGrid | None:
    """Latents (B, F, C, H, W), cut into patches, behind the text."""
    frames, _, height, width = given["hidden_states"].shape[1:]
    patch, together = model.config.patch_size, model.config.patch_size_t or 1
    text = given["encoder_hidden_states"].shape[1]
    return VideoGrid(frames // together, height // patch, width // patch, text)


def _ltx(model: Any, given: dict[str, Any]) -> VideoGrid | None:
    """Tokens, with the sides of their grid beside them, where the caller tells."""
    sides = [given.get(name) for name in ("num_frames", "height", "width")]
    if not all(isinstance(each, int) for each in sides):
        return None
    return VideoGrid(*sides)  # type: ignore[arg-type]
