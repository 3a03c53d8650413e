"""Tiny transformers of stock diffusers classes, each with the arguments of one call."""

from __future__ import annotations

from typing import Any

import tiny
import torch


def flux(num_layers: int = 2) -> tuple[Any, dict[str, Any]]:
    """FLUX's, with as many double blocks as single ones."""
    model = tiny.flux(num_layers, num_layers).transformer
    inputs = {
        "hidden_states": torch.randn(1, 16, 16),
        "encoder_hidden_states": torch.randn(1, 8, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.randn(16, 3).round(),
        "txt_ids": torch.zeros(8, 3),
    }
    return model, inputs


def sd3(num_layers: int = 2) -> tuple[Any, dict[str, Any]]:
    """SD3's: two pictures of 4x4 tokens."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=num_layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
    )
    inputs = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 6, 16),
        "pooled_projections": torch.randn(2, 16),
        "timestep": torch.tensor([500.0, 500.0]),
    }
    return model.eval(), inputs


def pixart(num_layers: int = 2) -> tuple[Any, dict[str, Any]]:
    """PixArt's: two pictures of 4x4 tokens, with texts of different lengths."""
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=num_layers,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=12,
        use_additional_conditions=False,
    )
    inputs = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 6, 12),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]),
        "timestep": torch.tensor([500, 500]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    return model.eval(), inputs


def cogvideox(num_layers: int = 2) -> tuple[Any, dict[str, Any]]:
    """CogVideoX's: 8 words, then 3 frames of 4x4 tokens."""
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=8,
        num_layers=num_layers,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=8,
    )
    inputs = {
        "hidden_states": torch.randn(1, 3, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 8, 8),
        "timestep": torch.tensor([5]),
    }
    return model, inputs
