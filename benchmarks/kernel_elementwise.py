"""Activations, gates, residuals and the timestep embedding as diffusers writes them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from .kernel_cases import Case, Draw, Family, Inputs, tokens_case
from .kernel_rows import INDUCTOR, STOCK, Target


def geglu(x: torch.Tensor, **_: Any) -> torch.Tensor:
    """GEGLU.forward after its projection."""
    hidden_states, gate = x.chunk(2, dim=-1)
    return hidden_states * F.gelu(gate)


def lumina_swiglu(x: torch.Tensor, **_: Any) -> torch.Tensor:
    """LuminaFeedForward's, its two projections joined."""
    first, second = x.chunk(2, dim=-1)
    return F.silu(first.float()).to(first.dtype) * second


def flux2_swiglu(x: torch.Tensor, **_: Any) -> torch.Tensor:
    """Flux2SwiGLU.forward."""
    first, second = x.chunk(2, dim=-1)
    return F.silu(first) * second


def _gated_inputs(
    draw: Draw, batch: int, tokens: int, wide: int, activation: str, gate_first: bool = False
) -> Inputs:
    return {
        "x": draw(batch, tokens, 2 * wide),
        "activation": activation,
        "gate_first": gate_first,
    }


def _wide_case(
    model: str, what: str, batch: int, tokens: int, wide: int, stock: Any, **options: Any
) -> Case:
    """A case inside a feed-forward: (batch, tokens, wide), or twice as wide before a gate."""
    return Case(model, what, {"batch": batch, "tokens": tokens, "wide": wide}, stock, options)


_GELU = {"activation": "gelu"}
_SILU_FIRST = {"activation": "silu", "gate_first": True}

GATED_ACTIVATION = Family(
    "gated_activation",
    "gated_activation",
    "memory",
    (
        _wide_case("SD1.5", "GEGLU, 64x64", 2, 4096, 1280, geglu, **_GELU),
        _wide_case("SD1.5", "GEGLU, 16x16", 2, 256, 5120, geglu, **_GELU),
        _wide_case("SDXL", "GEGLU, 64x64", 2, 4096, 2560, geglu, **_GELU),
        _wide_case("SDXL", "GEGLU, 32x32", 2, 1024, 5120, geglu, **_GELU),
        _wide_case("Lumina2", "SwiGLU", 2, 4096, 9216, lumina_swiglu, **_SILU_FIRST),
        _wide_case("FLUX.2", "SwiGLU", 1, 4608, 18432, flux2_swiglu, **_SILU_FIRST),
    ),
    _gated_inputs,
    lambda module, x, **named: module.gated_activation(x, **named),
    lambda module, x, **_: module.gated_activation_cost(x),
)


def z_image_swiglu(gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The line between the projections of Z-Image's FeedForward, AuraFlow's alike."""
    return F.silu(gate) * value


def lumina_swiglu_of_two(gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """LuminaFeedForward's."""
    return F.silu(gate.float()).to(gate.dtype) * value


def _product_inputs(draw: Draw, batch: int, tokens: int, wide: int) -> Inputs:
    return {"gate": draw(batch, tokens, wide), "value": draw(batch, tokens, wide)}


ACTIVATED_PRODUCT = Family(
    "activated_product",
    "gated_activation",
    "memory",
    (
        _wide_case("Z-Image", "SwiGLU", 1, 4224, 10240, z_image_swiglu),
        _wide_case("Lumina2", "SwiGLU", 2, 4096, 9216, lumina_swiglu_of_two),
    ),
    _product_inputs,
    lambda module, gate, value: module.activated_product(gate, value),
    lambda module, gate, value: module.activated_product_cost(gate, value),
)


def gelu_tanh(x: torch.Tensor, **_: Any) -> torch.Tensor:
    """FeedForward's GELU(approximate="tanh") after its projection."""
    return F.gelu(x, approximate="tanh")


def _activation_inputs(draw: Draw, batch: int, tokens: int, wide: int) -> Inputs:
    return {"x": draw(batch, tokens, wide), "activation": "gelu_tanh"}


ACTIVATION = Family(
    "activation",
    "gated_activation",
    "memory",
    (
        _wide_case("SD3", "GELU-tanh", 2, 4096, 6144, gelu_tanh),
        _wide_case("PixArt", "GELU-tanh", 2, 4096, 4608, gelu_tanh),
        _wide_case("FLUX", "GELU-tanh", 1, 4608, 12288, gelu_tanh),
        _wide_case("Wan-1.3B", "GELU-tanh", 1, 32760, 8960, gelu_tanh),
        _wide_case("Wan-14B", "GELU-tanh", 1, 32760, 13824, gelu_tanh),
    ),
    _activation_inputs,
    lambda module, x, activation: module.activation(x, activation=activation),
    lambda module, x, **_: module.activation_cost(x),
)


def residual_add(residual: torch.Tensor, x: torch.Tensor, gate: None) -> torch.Tensor:
    """BasicTransformerBlock's: attention's or the feed-forward's output onto the stream."""
    return x + residual


def gated_add(residual: torch.Tensor, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """FluxSingleTransformerBlock's, JointTransformerBlock's last lines."""
    x = gate.unsqueeze(1) * x
    return residual + x


def gated_add_in_fp32(residual: torch.Tensor, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """WanTransformerBlock's last line."""
    return (residual.float() + x.float() * gate[:, None]).type_as(residual)


def _residual_inputs(
    draw: Draw,
    batch: int,
    tokens: int,
    channels: int,
    gated: bool = True,
    modulation: torch.dtype | None = None,
) -> Inputs:
    return {
        "residual": draw(batch, tokens, channels),
        "x": draw(batch, tokens, channels),
        "gate": draw(batch, channels, dtype=modulation) if gated else None,
    }


_FP32 = {"modulation": torch.float32}

GATED_RESIDUAL = Family(
    "gated_residual",
    "gated_residual",
    "memory",
    (
        tokens_case("SD1.5", "residual, 64x64", 2, 4096, 320, residual_add, gated=False),
        tokens_case("SDXL", "residual, 64x64", 2, 4096, 640, residual_add, gated=False),
        tokens_case("SD3", "gated residual", 2, 4096, 1536, gated_add),
        tokens_case("PixArt", "gated residual", 2, 4096, 1152, gated_add),
        tokens_case("FLUX", "gated residual", 1, 4608, 3072, gated_add),
        tokens_case("Wan-14B", "gated residual", 1, 32760, 5120, gated_add_in_fp32, **_FP32),
    ),
    _residual_inputs,
    lambda module, residual, x, gate: module.gated_residual(residual, x, gate),
    lambda module, residual, x, gate: module.gated_residual_cost(residual, x, gate),
)


def timestep_embedding(
    timesteps: torch.Tensor, dim: int, flip_sin_to_cos: bool, downscale_freq_shift: float
) -> torch.Tensor:
    """Timesteps.forward."""
    from diffusers.models.embeddings import get_timestep_embedding

    arguments = (timesteps, dim, flip_sin_to_cos, downscale_freq_shift)
    embedding: torch.Tensor = get_timestep_embedding(*arguments)
    return embedding


def _true_embedding(
    timesteps: torch.Tensor, dim: int, flip_sin_to_cos: bool, downscale_freq_shift: float
) -> torch.Tensor:
    """In fp64: at timestep 1000 an angle in fp32 is off by up to 6e-5 already."""
    half = dim // 2
    place = torch.arange(half, dtype=torch.float64, device=timesteps.device)
    frequency = torch.exp(-math.log(10000) * place / (half - downscale_freq_shift))
    angles = timesteps.double()[:, None] * frequency
    parts = (angles.cos(), angles.sin()) if flip_sin_to_cos else (angles.sin(), angles.cos())
    return torch.cat(parts, dim=-1)


def _timestep_inputs(draw: Draw, batch: int, dim: int) -> Inputs:
    return {
        "timesteps": draw(batch, dtype=torch.float32).sigmoid() * 1000,
        "dim": dim,
        "flip_sin_to_cos": True,
        "downscale_freq_shift": 0.0,
    }


def _timestep_case(model: str, what: str, batch: int, dim: int) -> Case:
    return Case(model, what, {"batch": batch, "dim": dim}, timestep_embedding)


def _never_below(case: Case) -> tuple[Target, ...]:
    """A few kilobytes: a launch is all it takes, and copies have no part in it."""
    return (Target(1.0, (STOCK, INDUCTOR)),)


TIMESTEP_EMBEDDING = Family(
    "timestep_embedding",
    "timestep_embedding",
    "memory",
    (
        _timestep_case("SD1.5", "timesteps", 2, 320),
        _timestep_case("SDXL", "sizes", 12, 256),
        _timestep_case("FLUX", "timesteps", 1, 256),
        _timestep_case("Wan-14B", "timesteps", 1, 256),
    ),
    _timestep_inputs,
    lambda module, timesteps, dim, **named: module.timestep_embedding(timesteps, dim, **named),
    lambda module, timesteps, dim, **_: module.timestep_embedding_cost(timesteps, dim),
    targets=_never_below,
    truth=_true_embedding,
)

FAMILIES = (
    GATED_ACTIVATION,
    ACTIVATED_PRODUCT,
    ACTIVATION,
    GATED_RESIDUAL,
    TIMESTEP_EMBEDDING,
)
