"""Transformers whose pictures attend to text in layers of their own: width 32, two heads of 16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .families import POOLED, TEXT, Draw, Family, Size, mask, timesteps

_HEADS: Mapping[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}


def _latents(draw: Draw, size: Size) -> Any:
    return draw(size.batch, size.channels, size.height, size.width)


def _masked(draw: Draw, size: Size) -> dict[str, Any]:
    return {
        "hidden_states": _latents(draw, size),
        "encoder_hidden_states": draw(size.batch, size.tokens, size.text),
        "encoder_attention_mask": mask(size, size.tokens, draw.dtype),
        "timestep": timesteps(size, draw.dtype),
    }


def _kandinsky(draw: Draw, size: Size) -> dict[str, Any]:
    """A video, channels last, and positions for each axis."""
    import torch

    return {
        "hidden_states": draw(size.batch, size.frames, size.height, size.width, size.channels),
        "encoder_hidden_states": draw(size.batch, size.tokens, size.text),
        "pooled_projections": draw(size.batch, size.pooled),
        "timestep": timesteps(size, draw.dtype),
        "visual_rope_pos": [
            torch.arange(length) for length in (size.frames, size.height // 2, size.width // 2)
        ],
        "text_rope_pos": torch.arange(size.tokens),
    }


def _pixart(draw: Draw, size: Size) -> dict[str, Any]:
    added = {"resolution": None, "aspect_ratio": None}
    return {**_masked(draw, size), "added_cond_kwargs": added}


def _sana_guided(draw: Draw, size: Size) -> dict[str, Any]:
    return {**_masked(draw, size), "guidance": timesteps(size, draw.dtype, 0.5)}


def _hunyuan(draw: Draw, size: Size) -> dict[str, Any]:
    """Both texts have the lengths of the model's learned padding, 6 and 7."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed

    grid = (size.height // 2, size.width // 2)
    return {
        "hidden_states": _latents(draw, size),
        "timestep": timesteps(size, draw.dtype),
        "encoder_hidden_states": draw(size.batch, 6, size.text),
        "text_embedding_mask": mask(size, 6),
        "encoder_hidden_states_t5": draw(size.batch, 7, 16),
        "text_embedding_mask_t5": mask(size, 7),
        "image_rotary_emb": get_2d_rotary_pos_embed(16, ((0, 0), grid), grid, output_type="pt"),
    }


_SANA: Mapping[str, Any] = {
    **_HEADS,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 32,
    "caption_channels": TEXT,
    "sample_size": 8,
}

FAMILIES = (
    Family(
        "PixArt",
        "PixArtTransformer2DModel",
        {
            **_HEADS,
            "out_channels": 8,
            "num_layers": 2,
            "cross_attention_dim": 32,
            "caption_channels": TEXT,
            "sample_size": 8,
        },
        _pixart,
    ),
    Family("Sana", "SanaTransformer2DModel", _SANA, _masked),
    Family(
        "Sana Sprint",
        "SanaTransformer2DModel",
        {**_SANA, "guidance_embeds": True, "qk_norm": "rms_norm_across_heads"},
        _sana_guided,
    ),
    Family(
        "HunyuanDiT",
        "HunyuanDiT2DModel",
        {
            **_HEADS,
            "in_channels": 4,
            "patch_size": 2,
            "sample_size": 8,
            "hidden_size": 32,
            # the fourth block is the first with a skip connection
            "num_layers": 4,
            "cross_attention_dim": TEXT,
            "cross_attention_dim_t5": 16,
            "pooled_projection_dim": POOLED,
            "text_len": 6,
            "text_len_t5": 7,
            "use_style_cond_and_image_meta_size": False,
        },
        _hunyuan,
    ),
    Family(
        "Kandinsky 5",
        "Kandinsky5Transformer3DModel",
        {
            "in_visual_dim": 4,
            "in_text_dim": TEXT,
            "in_text_dim2": POOLED,
            "time_dim": 16,
            "out_visual_dim": 4,
            "model_dim": 32,
            "ff_dim": 64,
            "num_text_blocks": 1,
            "num_visual_blocks": 2,
            "axes_dims": (4, 6, 6),
        },
        _kandinsky,
    ),
)
