"""Tiny pipes that skip steps, what they draw, and what they have run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tiny

import sdaccel

STEPS = 12


def flux() -> Any:
    """A FLUX pipe of two double and four single blocks, guided by two calls a step."""
    return tiny.flux(num_layers=2, num_single_layers=4)


def controlnet() -> Any:
    """A StableDiffusionControlNetPipeline whose ControlNet adds something."""
    import torch
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    parts = tiny.stable_diffusion().components
    torch.manual_seed(5)
    net = ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(8, 16))
    for name, weight in net.named_parameters():
        if name.startswith(("controlnet_", "conv_")):  # zero in a new ControlNet
            torch.nn.init.normal_(weight, std=0.1)
    pipe = StableDiffusionControlNetPipeline(
        **parts, controlnet=net.eval(), requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def cached(pipe: Any, plan: str = "none", **options: Any) -> Any:
    """The pipe with step_cache; without options, as it is by default."""
    return sdaccel.accelerate(pipe, plan, step_cache=options or True)


def draw(pipe: Any, **changes: Any) -> Any:
    """Twelve steps from a fixed seed; (N, H, W, 3)."""
    import torch

    options = {"num_inference_steps": STEPS, **changes}
    if hasattr(pipe, "controlnet"):
        edges = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
        options = {"image": edges, **options}
    return (tiny.draw_flux if hasattr(pipe, "transformer") else tiny.draw)(pipe, **options)


def texts(change: Callable[[Any, int, Any], Any]) -> dict[str, Any]:
    """Keywords of `draw`: after each step `change(pipe, step, embeddings)` gives the next ones."""

    def after(pipe: Any, step: int, _: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**kwargs, "prompt_embeds": change(pipe, step, kwargs["prompt_embeds"])}

    return {
        "callback_on_step_end": after,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }


def another_text(after: int) -> dict[str, Any]:
    """Keywords of `draw`: another text from the step after that one on."""
    return texts(lambda _, step, embeds: embeds.flip(0) if step == after else embeds)


def apart(one: Any, other: Any) -> float:
    """The largest difference."""
    return float(abs(one - other).max())


def ran(pipe: Any) -> dict[str, int]:
    """The report's counts."""
    return dict(sdaccel.report(pipe)["step_cache"].ran)
