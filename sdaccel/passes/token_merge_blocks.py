"""Where tokens are merged: the self-attentions of UNets and of picture transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .step_cache_unet import is_unet
from .token_layouts import Grid, Layout, Listed

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Place:
    """An attention whose tokens can be merged, and how they lie.

    With `joint` its queries and keys are text as well, in a tensor of its own or before the
    picture's tokens.
    """

    attention: torch.nn.Module
    layout: Layout
    joint: bool = False


def places(model: Any, layers: int | None) -> list[Place]:
    """Of a UNet those at its `layers` largest resolutions that attend, one unless given; of a
    transformer those in its first `layers` blocks, all unless given."""
    if is_unet(model):
        return _in_unet(model, 1 if layers is None else layers)
    found = list(_in_transformer(model))
    return found if layers is None else found[:layers]


def _in_unet(model: Any, layers: int) -> list[Place]:
    """An encoder's block attends before it halves, a decoder's mirrors it."""
    levels: dict[int, list[torch.nn.Module]] = {}
    for blocks in (model.down_blocks, reversed(model.up_blocks)):
        for level, block in enumerate(blocks):
            for attention in _of_unet_block(block):
                levels.setdefault(level, []).append(attention)
    chosen = sorted(levels)[:layers]
    layouts = {level: Grid(level) for level in chosen}
    return [Place(each, layouts[level]) for level in chosen for each in levels[level]]


def _of_unet_block(block: Any) -> Iterator[torch.nn.Module]:
    for transformer in getattr(block, "attentions", None) or ():
        for inner in getattr(transformer, "transformer_blocks", ()):
            if _is_basic(inner):
                yield inner.attn1


def _in_transformer(model: Any) -> Iterator[Place]:
    from diffusers import FluxTransformer2DModel
    from diffusers.models.attention import JointTransformerBlock

    blocks = list(getattr(model, "transformer_blocks", None) or ())
    grid = Grid(patched=True)
    if isinstance(model, FluxTransformer2DModel):
        listed = Listed()
        for block in (*blocks, *model.single_transformer_blocks):
            yield Place(block.attn, listed, joint=True)
    elif isinstance(getattr(model.config, "patch_size", None), int):
        for block in blocks:
            if _is_basic(block):
                yield Place(block.attn1, grid)
            elif isinstance(block, JointTransformerBlock):
                yield Place(block.attn, grid, joint=True)


def _is_basic(block: Any) -> bool:
    """Whether a block attends to its own tokens first, and to the text after."""
    from diffusers.models.attention import BasicTransformerBlock

    return isinstance(block, BasicTransformerBlock) and not block.only_cross_attention
