"""Norm and rotation of query and key, as diffusers' attention processors write them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from .kernel_cases import Case, Draw, Family, Inputs
from .kernel_norms import rms_norm


def flux_norm_and_rotation(
    query: Any,
    key: Any,
    query_weight: Any,
    key_weight: Any,
    cos: Any,
    sin: Any,
    eps: float,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """FluxAttnProcessor's: nn.RMSNorm of each head, then apply_rotary_emb."""
    from diffusers.models.embeddings import apply_rotary_emb

    query = F.rms_norm(query, query.shape[-1:], query_weight, eps)
    key = F.rms_norm(key, key.shape[-1:], key_weight, eps)
    query = apply_rotary_emb(query, (cos, sin), sequence_dim=1)
    return query, apply_rotary_emb(key, (cos, sin), sequence_dim=1)


def sd3_norm(
    query: Any, key: Any, query_weight: Any, key_weight: Any, eps: float, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """JointAttnProcessor2_0's: diffusers' RMSNorm of each head, no rotation."""
    return rms_norm(query, query_weight, eps), rms_norm(key, key_weight, eps)


def wan_norm_and_rotation(
    query: Any,
    key: Any,
    query_weight: Any,
    key_weight: Any,
    cos: Any,
    sin: Any,
    eps: float,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """WanAttnProcessor's: nn.RMSNorm across heads, then its strided rotation."""
    heads = query.shape[2]

    def rotated(x: torch.Tensor) -> torch.Tensor:
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        cosines, sines = cos[..., 0::2], sin[..., 1::2]
        out = torch.empty_like(x)
        out[..., 0::2] = first * cosines - second * sines
        out[..., 1::2] = first * sines + second * cosines
        return out.type_as(x)

    query, key = query.flatten(2), key.flatten(2)
    query = F.rms_norm(query, query.shape[-1:], query_weight, eps)
    key = F.rms_norm(key, key.shape[-1:], key_weight, eps)
    return rotated(query.unflatten(2, (heads, -1))), rotated(key.unflatten(2, (heads, -1)))


def _qk_inputs(
    draw: Draw,
    batch: int,
    tokens: int,
    heads: int,
    dim: int,
    rotated: bool = True,
    across_heads: bool = False,
) -> Inputs:
    """Query and key as two linear layers leave them; tables (S, D), or Wan's (1, S, 1, D)."""
    angles = draw(tokens, dim // 2, scale=3.0, dtype=torch.float32).repeat_interleave(2, -1)
    angles = angles[None, :, None] if across_heads else angles
    return {
        "query": draw(batch, tokens, heads, dim),
        "key": draw(batch, tokens, heads, dim),
        "query_weight": draw.scales(heads * dim if across_heads else dim),
        "key_weight": draw.scales(heads * dim if across_heads else dim),
        "cos": angles.cos() if rotated else None,
        "sin": angles.sin() if rotated else None,
        "across_heads": across_heads,
        "eps": 1e-6,
    }


def _qk_norm_rope(module: ModuleType, query: Any, key: Any, **named: Any) -> Any:
    """In place, so that the next call normalises what this one left."""
    module.qk_norm_rope(query, key, norm="rms", **named)
    return query, key


def _qk_norm_rope_cost(
    module: ModuleType,
    query: Any,
    key: Any,
    query_weight: Any,
    key_weight: Any,
    cos: Any,
    sin: Any,
    **_: Any,
) -> Any:
    weights = {"query_weight": query_weight, "key_weight": key_weight}
    return module.qk_norm_rope_cost(query, key, **weights, cos=cos, sin=sin)


def _case(
    model: str,
    what: str,
    batch: int,
    tokens: int,
    heads: int,
    dim: int,
    stock: Any,
    **options: bool,
) -> Case:
    sizes = {"batch": batch, "tokens": tokens, "heads": heads, "dim": dim}
    return Case(model, what, sizes, stock, options)


QK_NORM_ROPE = Family(
    "qk_norm_rope",
    "qk_norm_rope",
    "memory",
    (
        _case("SD3", "norm alone, 1024x1024", 2, 4096, 24, 64, sd3_norm, rotated=False),
        _case("FLUX", "1024x1024 and text", 1, 4608, 24, 128, flux_norm_and_rotation),
        _case(
            "Wan-1.3B", "832x480x81", 1, 32760, 12, 128, wan_norm_and_rotation, across_heads=True
        ),
        _case("Wan-14B", "832x480x81", 1, 32760, 40, 128, wan_norm_and_rotation, across_heads=True),
    ),
    _qk_inputs,
    _qk_norm_rope,
    _qk_norm_rope_cost,
)

FAMILIES = (QK_NORM_ROPE,)
