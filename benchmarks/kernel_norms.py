"""Norms as diffusers writes them: modulated, after a residual, in groups, of query and key."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from .kernel_cases import Draw, Family, Inputs, Rival, tokens_case
from .kernel_rows import TORCH


def layer_norm(x: torch.Tensor, weight: Any, bias: Any, eps: float, **_: Any) -> torch.Tensor:
    """nn.LayerNorm: BasicTransformerBlock's."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def ada_layer_norm(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float, **_: Any
) -> torch.Tensor:
    """AdaLayerNormZero's last line."""
    y = F.layer_norm(x, x.shape[-1:], eps=eps)
    return y * (1 + scale[:, None]) + shift[:, None]


def ada_layer_norm_in_fp32(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float, **_: Any
) -> torch.Tensor:
    """WanTransformerBlock's: FP32LayerNorm and the modulation in fp32."""
    y = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return (y * (1 + scale[:, None]) + shift[:, None]).type_as(x)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, **_: Any) -> torch.Tensor:
    """diffusers' own RMSNorm: SD3, Lumina2, Z-Image."""
    variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
    y = x * torch.rsqrt(variance + eps)
    return y.to(weight.dtype) * weight if weight.dtype != torch.float32 else y * weight


def _norm_inputs(
    draw: Draw,
    batch: int,
    tokens: int,
    channels: int,
    kind: str = "layer",
    affine: bool = False,
    modulation: torch.dtype | None = None,
) -> Inputs:
    """Affine, or modulated per sample (in the dtype of `modulation`, None: x's)."""
    modulated = not affine
    return {
        "x": draw(batch, tokens, channels),
        "scale": draw(batch, channels, dtype=modulation) if modulated else None,
        "shift": draw(batch, channels, dtype=modulation) if modulated else None,
        "weight": draw.scales(channels) if affine else None,
        "bias": draw(channels) if affine and kind == "layer" else None,
        "kind": kind,
        "eps": 1e-6,
    }


def _norm_modulate(module: ModuleType, x: Any, scale: Any, shift: Any, **named: Any) -> Any:
    return module.norm_modulate(x, scale, shift, **named)


def _norm_modulate_cost(
    module: ModuleType, x: Any, scale: Any, shift: Any, weight: Any, bias: Any, **_: Any
) -> Any:
    return module.norm_modulate_cost(x, scale, shift, weight, bias)


def _by_torch(inputs: Inputs) -> Any:
    """torch's fused norm, and one pass to modulate."""

    def run(
        x: Any, scale: Any, shift: Any, weight: Any, bias: Any, kind: str, eps: float
    ) -> torch.Tensor:
        if kind == "rms":
            y = F.rms_norm(x, x.shape[-1:], weight, eps)
        else:
            y = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
        if scale is None:
            return y
        return torch.addcmul(shift[:, None], y, 1 + scale[:, None]).to(x.dtype)

    return run


_FP32 = {"modulation": torch.float32}
_RMS = {"kind": "rms", "affine": True}

NORM_MODULATE = Family(
    "norm_modulate",
    "norm_modulate",
    "memory",
    (
        tokens_case("SD1.5", "LayerNorm, 64x64", 2, 4096, 320, layer_norm, affine=True),
        tokens_case("SDXL", "LayerNorm, 64x64", 2, 4096, 640, layer_norm, affine=True),
        tokens_case("SDXL", "LayerNorm, 32x32", 2, 1024, 1280, layer_norm, affine=True),
        tokens_case("SD3", "adaLN, 1024x1024", 2, 4096, 1536, ada_layer_norm),
        tokens_case("PixArt", "adaLN, 1024x1024", 2, 4096, 1152, ada_layer_norm),
        tokens_case("FLUX", "adaLN, 1024x1024", 1, 4096, 3072, ada_layer_norm),
        tokens_case("FLUX", "adaLN, picture and text", 1, 4608, 3072, ada_layer_norm),
        tokens_case("Lumina2", "RMSNorm, 1024x1024", 2, 4096, 2304, rms_norm, **_RMS),
        tokens_case(
            "Wan-1.3B", "adaLN, 832x480x81", 1, 32760, 1536, ada_layer_norm_in_fp32, **_FP32
        ),
        tokens_case(
            "Wan-14B", "adaLN, 832x480x81", 1, 32760, 5120, ada_layer_norm_in_fp32, **_FP32
        ),
    ),
    _norm_inputs,
    _norm_modulate,
    _norm_modulate_cost,
    lambda: {"torch's norm": Rival(TORCH, _by_torch)},
)


def residual_then_norm(
    residual: torch.Tensor, x: torch.Tensor, weight: Any, bias: Any, eps: float, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """BasicTransformerBlock's: the residual, and the next LayerNorm."""
    stream = x + residual
    return stream, F.layer_norm(stream, stream.shape[-1:], weight, bias, eps)


def gated_residual_then_norm(
    residual: torch.Tensor, x: torch.Tensor, gate: Any, scale: Any, shift: Any, eps: float, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """FluxTransformerBlock's, JointTransformerBlock's: gate, residual, norm, modulation."""
    x = gate.unsqueeze(1) * x
    stream = residual + x
    y = F.layer_norm(stream, stream.shape[-1:], eps=eps)
    return stream, y * (1 + scale[:, None]) + shift[:, None]


def gated_residual_then_norm_in_fp32(
    residual: torch.Tensor, x: torch.Tensor, gate: Any, weight: Any, bias: Any, eps: float, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """WanTransformerBlock's: after self-attention, and the affine norm before cross-attention."""
    stream = (residual.float() + x * gate[:, None]).type_as(residual)
    y = F.layer_norm(stream.float(), stream.shape[-1:], weight.float(), bias.float(), eps)
    return stream, y.type_as(stream)


def _residual_norm_inputs(
    draw: Draw,
    batch: int,
    tokens: int,
    channels: int,
    affine: bool = False,
    gated: bool = True,
    modulation: torch.dtype | None = None,
) -> Inputs:
    modulated = not affine
    return {
        "residual": draw(batch, tokens, channels),
        "x": draw(batch, tokens, channels),
        "gate": draw(batch, channels, dtype=modulation) if gated else None,
        "scale": draw(batch, channels) if modulated else None,
        "shift": draw(batch, channels) if modulated else None,
        "weight": draw.scales(channels) if affine else None,
        "bias": draw(channels) if affine else None,
        "eps": 1e-6,
    }


def _gated_residual_norm(
    module: ModuleType, residual: Any, x: Any, gate: Any, scale: Any, shift: Any, **named: Any
) -> Any:
    return module.gated_residual_norm(residual, x, gate, scale, shift, **named)


def _gated_residual_norm_cost(
    module: ModuleType, residual: Any, x: Any, gate: Any, scale: Any, shift: Any, **_: Any
) -> Any:
    return module.gated_residual_norm_cost(residual, x, gate, scale, shift)


_UNGATED = {"affine": True, "gated": False}

GATED_RESIDUAL_NORM = Family(
    "gated_residual_norm",
    "gated_residual_norm",
    "memory",
    (
        tokens_case(
            "SD1.5", "before cross-attention, 64x64", 2, 4096, 320, residual_then_norm, **_UNGATED
        ),
        tokens_case(
            "SDXL", "before cross-attention, 64x64", 2, 4096, 640, residual_then_norm, **_UNGATED
        ),
        tokens_case(
            "SDXL", "before cross-attention, 32x32", 2, 1024, 1280, residual_then_norm, **_UNGATED
        ),
        tokens_case("SD3", "before the feed-forward", 2, 4096, 1536, gated_residual_then_norm),
        tokens_case("PixArt", "before the feed-forward", 2, 4096, 1152, gated_residual_then_norm),
        tokens_case("FLUX", "before the feed-forward", 1, 4096, 3072, gated_residual_then_norm),
        tokens_case(
            "Wan-14B",
            "before cross-attention",
            1,
            32760,
            5120,
            gated_residual_then_norm_in_fp32,
            affine=True,
            **_FP32,
        ),
    ),
    _residual_norm_inputs,
    _gated_residual_norm,
    _gated_residual_norm_cost,
)

FAMILIES = (NORM_MODULATE, GATED_RESIDUAL_NORM)
