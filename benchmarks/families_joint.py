"""Transformers in which text and picture attend together: width 32, two heads of 16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .families import POOLED, TEXT, Draw, Family, Size, grid_ids, mask, timesteps

_HEADS: Mapping[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}


def _text(draw: Draw, size: Size) -> Any:
    return draw(size.batch, size.tokens, size.text)


def _latents(draw: Draw, size: Size) -> Any:
    return draw(size.batch, size.channels, size.height, size.width)


def _tokens(draw: Draw, size: Size) -> Any:
    """Latents that are tokens already, 2x2 of them packed into one."""
    return draw(size.batch, size.patches(), 4 * size.channels)


def _sd3(draw: Draw, size: Size) -> dict[str, Any]:
    return {
        "hidden_states": _latents(draw, size),
        "encoder_hidden_states": _text(draw, size),
        "pooled_projections": draw(size.batch, size.pooled),
        "timestep": timesteps(size, draw.dtype),
    }


def _flux(draw: Draw, size: Size) -> dict[str, Any]:
    return {
        "hidden_states": _tokens(draw, size),
        "encoder_hidden_states": _text(draw, size),
        "pooled_projections": draw(size.batch, size.pooled),
        "timestep": timesteps(size, draw.dtype, 1.0),
        "guidance": timesteps(size, draw.dtype, 5.0),
        "img_ids": grid_ids(size.height // 2, size.width // 2),
        "txt_ids": grid_ids(1, size.tokens) * 0,
    }


def _flux2(draw: Draw, size: Size) -> dict[str, Any]:
    text_ids = grid_ids(1, size.tokens, 4)[:, [0, 1, 3, 2]]
    return {
        "hidden_states": _tokens(draw, size),
        "encoder_hidden_states": _text(draw, size),
        "timestep": timesteps(size, draw.dtype, 1.0),
        "guidance": timesteps(size, draw.dtype, 5.0),
        "img_ids": grid_ids(size.height // 2, size.width // 2, 4),
        "txt_ids": text_ids,
    }


def _chroma(draw: Draw, size: Size) -> dict[str, Any]:
    """Its mask covers text and picture; it is added to the scores as the pipeline does it."""
    inputs = _flux(draw, size)
    del inputs["pooled_projections"], inputs["guidance"]
    counts = mask(size, size.tokens + size.patches(), draw.dtype).roll(size.tokens, dims=1)
    return {**inputs, "attention_mask": counts}


def _qwen(draw: Draw, size: Size) -> dict[str, Any]:
    return {
        "hidden_states": _tokens(draw, size),
        "encoder_hidden_states": _text(draw, size),
        "encoder_hidden_states_mask": mask(size, size.tokens),
        "timestep": timesteps(size, draw.dtype, 1.0),
        "img_shapes": [[(1, size.height // 2, size.width // 2)]] * size.batch,
    }


def _z_image(draw: Draw, size: Size) -> dict[str, Any]:
    """Lists of unlike lengths; text is padded to multiples of 32, so to 32 and 64 in a tiny one."""
    return {
        "x": [draw(size.channels, 1, size.height, size.width) for _ in range(size.batch)],
        "t": timesteps(size, draw.dtype, 1.0),
        "cap_feats": [draw(size.tokens + 30 * i, size.text) for i in range(size.batch)],
    }


def _lumina(draw: Draw, size: Size) -> dict[str, Any]:
    return {
        "hidden_states": _latents(draw, size),
        "encoder_hidden_states": _text(draw, size),
        "encoder_attention_mask": mask(size, size.tokens),
        "timestep": timesteps(size, draw.dtype, 1.0),
    }


def _aura_flow(draw: Draw, size: Size) -> dict[str, Any]:
    return {
        "hidden_states": _latents(draw, size),
        "encoder_hidden_states": _text(draw, size),
        "timestep": timesteps(size, draw.dtype, 1.0),
    }


def _prx(draw: Draw, size: Size) -> dict[str, Any]:
    """Text has keys and values alone."""
    return {
        "hidden_states": _latents(draw, size),
        "encoder_hidden_states": _text(draw, size),
        "attention_mask": mask(size, size.tokens),
        "timestep": timesteps(size, draw.dtype, 1.0),
    }


def _ernie(draw: Draw, size: Size) -> dict[str, Any]:
    """Text of unequal length, behind the picture."""
    return {
        "hidden_states": _latents(draw, size),
        "text_bth": _text(draw, size),
        "text_lens": mask(size, size.tokens).sum(1),
        "timestep": timesteps(size),
    }


def _cog_view(draw: Draw, size: Size) -> dict[str, Any]:
    pixels = 512 * draw(3, size.batch, 2).abs()
    return {
        "hidden_states": _latents(draw, size),
        "encoder_hidden_states": _text(draw, size),
        "timestep": timesteps(size),
        "original_size": pixels[0],
        "target_size": pixels[1],
        "crop_coords": pixels[2],
    }


_SD3: Mapping[str, Any] = {
    **_HEADS,
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "joint_attention_dim": TEXT,
    "caption_projection_dim": 32,
    "pooled_projection_dim": POOLED,
    "pos_embed_max_size": 8,
}
_FLUX: Mapping[str, Any] = {
    **_HEADS,
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "joint_attention_dim": TEXT,
}
FAMILIES = (
    Family("SD 3", "SD3Transformer2DModel", _SD3, _sd3),
    Family(
        "SD 3.5",
        "SD3Transformer2DModel",
        {**_SD3, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
        _sd3,
    ),
    Family(
        "FLUX.1",
        "FluxTransformer2DModel",
        {
            **_FLUX,
            "pooled_projection_dim": POOLED,
            "guidance_embeds": True,
            "axes_dims_rope": (4, 4, 8),
        },
        _flux,
    ),
    Family(
        "FLUX.2",
        "Flux2Transformer2DModel",
        {**_FLUX, "timestep_guidance_channels": 16, "axes_dims_rope": (4, 4, 4, 4)},
        _flux2,
    ),
    Family(
        "Chroma",
        "ChromaTransformer2DModel",
        {
            **_FLUX,
            "axes_dims_rope": (4, 4, 8),
            "approximator_num_channels": 16,
            "approximator_hidden_dim": 32,
            "approximator_layers": 1,
        },
        _chroma,
    ),
    Family(
        "Qwen-Image",
        "QwenImageTransformer2DModel",
        {
            **_HEADS,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "joint_attention_dim": TEXT,
            "axes_dims_rope": (4, 4, 8),
        },
        _qwen,
    ),
    Family(
        "Z-Image",
        "ZImageTransformer2DModel",
        {
            "in_channels": 4,
            "dim": 32,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": TEXT,
            "axes_dims": [4, 4, 8],
            "axes_lens": [128, 16, 16],
        },
        _z_image,
    ),
    Family(
        "Lumina 2",
        "Lumina2Transformer2DModel",
        {
            "sample_size": 8,
            "in_channels": 4,
            "hidden_size": 32,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 16,
            "axes_dim_rope": (4, 4, 8),
            "axes_lens": (32, 16, 16),
            "cap_feat_dim": TEXT,
        },
        _lumina,
    ),
    Family(
        "AuraFlow",
        "AuraFlowTransformer2DModel",
        {
            **_HEADS,
            "sample_size": 8,
            "num_mmdit_layers": 2,
            "num_single_dit_layers": 2,
            "joint_attention_dim": TEXT,
            "caption_projection_dim": 32,
            "pos_embed_max_size": 64,
        },
        _aura_flow,
    ),
    Family(
        "PRX",
        "PRXTransformer2DModel",
        {
            "in_channels": 4,
            "context_in_dim": TEXT,
            "hidden_size": 32,
            "num_heads": 2,
            "depth": 2,
            "axes_dim": [8, 8],
        },
        _prx,
    ),
    Family(
        "ErnieImage",
        "ErnieImageTransformer2DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "patch_size": 2,
            "text_in_dim": TEXT,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_layers": 2,
            "ffn_hidden_size": 64,
            "rope_axes_dim": (4, 6, 6),
        },
        _ernie,
    ),
    Family(
        "CogView 4",
        "CogView4Transformer2DModel",
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "text_embed_dim": TEXT,
            "time_embed_dim": 32,
            "condition_dim": 8,
            "pos_embed_max_size": 8,
            "sample_size": 8,
        },
        _cog_view,
    ),
)
