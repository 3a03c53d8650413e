"""Diffusion transformers that draw videos, and Wan's VAE: width 32, two heads of 16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .families import POOLED, TEXT, Draw, Family, Size, mask, timesteps

_HEADS: Mapping[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}


def _video(draw: Draw, size: Size) -> Any:
    return draw(size.batch, size.channels, size.frames, size.height, size.width)


def _masked(draw: Draw, size: Size) -> dict[str, Any]:
    """Latents as a video, and text with a mask."""
    return {
        "hidden_states": _video(draw, size),
        "encoder_hidden_states": draw(size.batch, size.tokens, size.text),
        "encoder_attention_mask": mask(size, size.tokens),
        "timestep": timesteps(size),
    }


def _cog_video(draw: Draw, size: Size) -> dict[str, Any]:
    """Frames before channels; its pipeline makes the rotation."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    grid = (size.height // 2, size.width // 2)
    return {
        "hidden_states": draw(size.batch, size.frames, size.channels, size.height, size.width),
        "encoder_hidden_states": draw(size.batch, size.tokens, size.text),
        "timestep": timesteps(size),
        "image_rotary_emb": get_3d_rotary_pos_embed(size.head, ((0, 0), grid), grid, size.frames),
    }


def _ltx(draw: Draw, size: Size) -> dict[str, Any]:
    """Each latent is a token."""
    return {
        "hidden_states": draw(size.batch, size.frames * size.patches(), 4 * size.channels),
        "encoder_hidden_states": draw(size.batch, size.tokens, size.text),
        "encoder_attention_mask": mask(size, size.tokens, draw.dtype),
        "timestep": timesteps(size, draw.dtype),
        "num_frames": size.frames,
        "height": size.height // 2,
        "width": size.width // 2,
    }


def _ltx2(draw: Draw, size: Size) -> dict[str, Any]:
    """A timestep for each token of video, as for video from a picture; sound beside it."""
    inputs, sounds = _ltx(draw, size), 3
    steps = timesteps(size, draw.dtype)
    tokens = inputs["hidden_states"].shape[1]
    return {
        **inputs,
        "audio_hidden_states": draw(size.batch, sounds, 16),
        "audio_encoder_hidden_states": draw(size.batch, size.tokens, size.text),
        "audio_encoder_attention_mask": inputs["encoder_attention_mask"],
        "timestep": steps[:, None] * draw(size.batch, tokens).sigmoid(),
        "audio_timestep": steps,
        "sigma": steps,
        "audio_sigma": steps,
        "audio_num_frames": sounds,
    }


def _wan(draw: Draw, size: Size) -> dict[str, Any]:
    return {
        "hidden_states": _video(draw, size),
        "encoder_hidden_states": draw(size.batch, size.tokens, size.text),
        "timestep": timesteps(size),
    }


def _wan_picture(draw: Draw, size: Size) -> dict[str, Any]:
    """Tokens of a first picture stand before the text, which always has 512 tokens."""
    return {
        **_wan(draw, Size(size.height, size.width, size.frames, 512)),
        "encoder_hidden_states_image": draw(size.batch, size.tokens, size.pooled),
    }


def _wan_tokens(draw: Draw, size: Size) -> dict[str, Any]:
    """A timestep for each token."""
    tokens = size.frames * size.patches()
    steps = timesteps(size)[:, None] * draw(size.batch, tokens).sigmoid().float()
    return {**_wan(draw, size), "timestep": steps}


def _hunyuan(draw: Draw, size: Size) -> dict[str, Any]:
    return {
        **_masked(draw, size),
        "pooled_projections": draw(size.batch, size.pooled),
        "guidance": timesteps(size, draw.dtype, 6000.0),
    }


def _cosmos(draw: Draw, size: Size) -> dict[str, Any]:
    """A frame rate, by which positions in time are scaled."""
    return {
        "hidden_states": _video(draw, size),
        "encoder_hidden_states": draw(size.batch, size.tokens, size.text),
        "attention_mask": mask(size, size.tokens).bool(),
        "timestep": timesteps(size, draw.dtype),
        "fps": 16,
    }


def _latte(draw: Draw, size: Size) -> dict[str, Any]:
    return {
        "hidden_states": _video(draw, size),
        "encoder_hidden_states": draw(size.batch, size.tokens, size.text),
        "timestep": timesteps(size),
    }


def _allegro(draw: Draw, size: Size) -> dict[str, Any]:
    """Its pipeline makes the rotation: tables of the axes, and each token's place on them."""
    import torch
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    grid = (size.height // 2, size.width // 2)
    *tables, t, h, w = get_3d_rotary_pos_embed_allegro(
        24, ((0, 0), grid), grid, size.frames, (1.0, 1.0, 1.0)
    )
    places = torch.cartesian_prod(t.long(), h.long(), w.long()).T[:, None]
    return {
        **_masked(draw, size),
        "encoder_attention_mask": mask(size, size.tokens, draw.dtype),
        "image_rotary_emb": (tuple(tables), tuple(places)),
    }


def _frames(draw: Draw, size: Size) -> dict[str, Any]:
    """A first frame and four more, which are compressed in time."""
    return {"sample": draw(1, 3, 5, size.height, size.width)}


_LTX: Mapping[str, Any] = {
    **_HEADS,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "cross_attention_dim": 32,
    "caption_channels": TEXT,
}
_WAN: Mapping[str, Any] = {
    **_HEADS,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": TEXT,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}

FAMILIES = (
    Family(
        "CogVideoX",
        "CogVideoXTransformer3DModel",
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 16,
            "text_embed_dim": TEXT,
            "num_layers": 2,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 5,
            "use_rotary_positional_embeddings": True,
        },
        _cog_video,
    ),
    Family("LTX", "LTXVideoTransformer3DModel", _LTX, _ltx),
    Family(
        "LTX 2",
        "LTX2VideoTransformer3DModel",
        {
            **_LTX,
            "vae_scale_factors": (2, 4, 4),
            "audio_in_channels": 16,
            "audio_out_channels": 16,
            "audio_num_attention_heads": 2,
            "audio_attention_head_dim": 8,
            "audio_cross_attention_dim": 16,
        },
        _ltx2,
    ),
    Family("Wan 2.1", "WanTransformer3DModel", _WAN, _wan),
    Family(
        "Wan 2.1 I2V",
        "WanTransformer3DModel",
        {**_WAN, "image_dim": POOLED, "added_kv_proj_dim": 32},
        _wan_picture,
    ),
    Family("Wan 2.2 TI2V", "WanTransformer3DModel", _WAN, _wan_tokens),
    Family(
        "HunyuanVideo",
        "HunyuanVideoTransformer3DModel",
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "text_embed_dim": TEXT,
            "pooled_projection_dim": POOLED,
            "rope_axes_dim": (4, 4, 8),
        },
        _hunyuan,
    ),
    Family(
        "Mochi",
        "MochiTransformer3DModel",
        {
            **_HEADS,
            "num_layers": 2,
            "pooled_projection_dim": TEXT,
            "in_channels": 4,
            "text_embed_dim": TEXT,
            "time_embed_dim": 16,
            "max_sequence_length": 8,
        },
        _masked,
    ),
    Family(
        "Cosmos",
        "CosmosTransformer3DModel",
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "text_embed_dim": TEXT,
            "adaln_lora_dim": 8,
            "max_size": (4, 16, 16),
            "concat_padding_mask": False,
        },
        _cosmos,
    ),
    Family(
        "Latte",
        "LatteTransformer3DModel",
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "cross_attention_dim": 32,
            "attention_bias": True,
            "sample_size": 8,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "norm_eps": 1e-6,
            "caption_channels": TEXT,
            "video_length": 2,
        },
        _latte,
    ),
    Family(
        "Allegro",
        "AllegroTransformer3DModel",
        {
            "num_attention_heads": 2,
            # a third of a head for each axis
            "attention_head_dim": 24,
            "num_layers": 2,
            "cross_attention_dim": 48,
            "sample_height": 8,
            "sample_width": 8,
            "sample_frames": 2,
            "caption_channels": TEXT,
        },
        _allegro,
    ),
    Family(
        "AutoencoderKLWan",
        "AutoencoderKLWan",
        {
            "base_dim": 16,
            "z_dim": 4,
            "dim_mult": [1, 2],
            "num_res_blocks": 1,
            "temperal_downsample": [True],
            "latents_mean": [0.0] * 4,
            "latents_std": [1.0] * 4,
            "scale_factor_temporal": 2,
            "scale_factor_spatial": 2,
        },
        _frames,
        "vae",
    ),
)
