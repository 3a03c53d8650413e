"""Tiny pipes that skip steps, what they draw, and what they have run."""

from __future__ import annotations

from typing import Any

import tiny

import sdaccel

STEPS = 12


def flux() -> Any:
    """A FLUX pipe of two double and four single blocks, guided by two calls a step."""
    import torch
    from diffusers import FluxTransformer2DModel

    pipe = tiny.flux()
    torch.manual_seed(3)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    pipe.register_modules(transformer=transformer.eval())
    return pipe


def cached(pipe: Any, plan: str = "none", **options: Any) -> Any:
    """The pipe with step_cache; without options, as it is by default."""
    return sdaccel.accelerate(pipe, plan, step_cache=options or True)


def draw(pipe: Any, **changes: Any) -> Any:
    """Twelve steps from a fixed seed; (N, H, W, 3)."""
    options = {"num_inference_steps": STEPS, **changes}
    return (tiny.draw_flux if hasattr(pipe, "transformer") else tiny.draw)(pipe, **options)


def apart(one: Any, other: Any) -> float:
    """The largest difference."""
    return float(abs(one - other).max())


def ran(pipe: Any) -> dict[str, int]:
    """The report's counts."""
    return dict(sdaccel.report(pipe)["step_cache"].ran)
