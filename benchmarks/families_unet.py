"""UNets, ControlNet and the image VAE: Stable Diffusion's families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .families import POOLED, TEXT, Draw, Family, Size, timesteps

_UNET: Mapping[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": TEXT,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
_SDXL: Mapping[str, Any] = {
    **_UNET,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
}


def _unet(draw: Draw, size: Size) -> dict[str, Any]:
    return {
        "sample": draw(size.batch, size.channels, size.height, size.width),
        "timestep": timesteps(size),
        "encoder_hidden_states": draw(size.batch, size.tokens, size.text),
    }


def _text_time(draw: Draw, size: Size, ids: int) -> dict[str, Any]:
    """SDXL's second text embedding, and `ids` numbers on the picture's size and crop."""
    added = {
        "text_embeds": draw(size.batch, size.pooled),
        "time_ids": 64 * draw(size.batch, ids).abs(),
    }
    return {**_unet(draw, size), "added_cond_kwargs": added}


def _sdxl(draw: Draw, size: Size) -> dict[str, Any]:
    return _text_time(draw, size, 6)


def _refiner(draw: Draw, size: Size) -> dict[str, Any]:
    return _text_time(draw, size, 5)


def _controlnet(draw: Draw, size: Size) -> dict[str, Any]:
    picture = draw(size.batch, 3, 8 * size.height, 8 * size.width)
    return {**_unet(draw, size), "controlnet_cond": picture, "conditioning_scale": 0.7}


def _motion(draw: Draw, size: Size) -> dict[str, Any]:
    """AnimateDiff: one text for each frame."""
    return {
        "sample": draw(size.batch, size.channels, size.frames, size.height, size.width),
        "timestep": timesteps(size),
        "encoder_hidden_states": draw(size.batch * size.frames, size.tokens, size.text),
    }


def _spatio_temporal(draw: Draw, size: Size) -> dict[str, Any]:
    """SVD: noise beside the latents of the first picture; its embedding in the place of text."""
    return {
        "sample": draw(size.batch, size.frames, 8, size.height, size.width),
        "timestep": timesteps(size),
        "encoder_hidden_states": draw(size.batch, 1, size.text),
        "added_time_ids": 32 * draw(size.batch, 3).abs(),
    }


def _pictures(draw: Draw, size: Size) -> dict[str, Any]:
    return {"sample": draw(size.batch, 3, 2 * size.height, 2 * size.width)}


def _frames(draw: Draw, size: Size) -> dict[str, Any]:
    """SVD's decoder: frames are the batch."""
    pictures = draw(size.batch * size.frames, 3, 2 * size.height, 2 * size.width)
    return {"sample": pictures, "num_frames": size.frames}


_VAE: Mapping[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "latent_channels": 4,
}

FAMILIES = (
    Family("SD 1.5", "UNet2DConditionModel", _UNET, _unet),
    Family(
        "SD 2.1",
        "UNet2DConditionModel",
        {**_UNET, "use_linear_projection": True, "attention_head_dim": (2, 4)},
        _unet,
    ),
    Family(
        "SDXL",
        "UNet2DConditionModel",
        {**_SDXL, "projection_class_embeddings_input_dim": POOLED + 6 * 8},
        _sdxl,
    ),
    Family(
        "SDXL refiner",
        "UNet2DConditionModel",
        {
            **_SDXL,
            "block_out_channels": (16, 32, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": 2,
            "projection_class_embeddings_input_dim": POOLED + 5 * 8,
        },
        _refiner,
    ),
    Family(
        "ControlNet",
        "ControlNetModel",
        {
            **{key: _UNET[key] for key in _UNET if key not in ("sample_size", "up_block_types")},
            "conditioning_embedding_out_channels": (8, 8, 16, 16),
        },
        _controlnet,
    ),
    Family(
        "AnimateDiff",
        "UNetMotionModel",
        {
            **{key: _UNET[key] for key in _UNET if key != "attention_head_dim"},
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "num_attention_heads": 2,
            "motion_num_attention_heads": 2,
            "motion_max_seq_length": 8,
        },
        _motion,
    ),
    Family(
        "SVD",
        "UNetSpatioTemporalConditionModel",
        {
            "sample_size": 8,
            # its norms have 32 groups: of one channel each, they would undo every bias
            "block_out_channels": (64, 64),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "cross_attention_dim": TEXT,
            "num_attention_heads": 4,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24,
            "num_frames": 2,
        },
        _spatio_temporal,
    ),
    Family(
        "AutoencoderKL",
        "AutoencoderKL",
        {**_VAE, "norm_num_groups": 8, "up_block_types": ("UpDecoderBlock2D",) * 2},
        _pictures,
        "vae",
    ),
    Family(
        "AutoencoderKLTemporalDecoder",
        "AutoencoderKLTemporalDecoder",
        {**_VAE, "block_out_channels": (64, 64), "layers_per_block": 2},
        _frames,
        "vae",
    ),
)
