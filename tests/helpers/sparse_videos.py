"""Tiny video pipes whose attention is sparse on a CPU, and what they have run."""

from __future__ import annotations

from typing import Any

import tiny_video

import sdaccel
from sdaccel.passes.video_blocks import VideoGrid

LAYERS, STEPS = 4, 5
OPTIONS: dict[str, Any] = {"anywhere": True, "fewest_tokens": 0, "block_size": (16, 16)}
NEAR: dict[str, Any] = {"keep": None, "reach": (0, 9, 9)}
"""Each frame for itself: 4x4 tokens, a block of queries and of keys."""
EVERYWHERE: dict[str, Any] = {"first_steps": 0.0, "first_layers": 0, "last_layers": 0}


def wan() -> Any:
    """A WanPipeline whose transformer has four layers."""
    import torch
    from diffusers import WanTransformer3DModel

    torch.manual_seed(7)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=LAYERS,
        rope_max_seq_len=8,
    ).eval()
    return tiny_video.wan(transformer=transformer)


def sparse(pipe: Any, **options: Any) -> Any:
    """The pipe with sparse_attention, for however few tokens unless asked otherwise."""
    return sdaccel.accelerate(pipe, "none", sparse_attention={**OPTIONS, **options})


def record(pipe: Any) -> Any:
    """What the report has on sparse_attention."""
    return sdaccel.report(pipe)["sparse_attention"]


def draw(pipe: Any, **changes: Any) -> Any:
    """The latents of five steps of 3 frames of 4x4 tokens, with two calls a step."""
    import torch

    options = {
        "prompt": "a cat",
        "num_frames": 5,
        "height": 64,
        "width": 64,
        "num_inference_steps": STEPS,
        "guidance_scale": 2.0,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(0),
    }
    return pipe(**{**options, **changes}).frames


def wan_model() -> tuple[Any, dict[str, Any], VideoGrid]:
    """A transformer, what it is called with, and its tokens."""
    import torch

    inputs = {
        "hidden_states": torch.randn(2, 4, 3, 8, 8),
        "encoder_hidden_states": torch.randn(2, 7, 16),
        "timestep": torch.tensor([5, 5]),
    }
    return wan().transformer, inputs, VideoGrid(3, 4, 4)


def cogvideox_model() -> tuple[Any, dict[str, Any], VideoGrid]:
    """The same of CogVideoX, whose text stands before the tokens."""
    import torch
    from tiny_transformers import cogvideox

    torch.manual_seed(8)
    model, inputs = cogvideox(num_layers=3)
    return model.eval(), inputs, VideoGrid(3, 4, 4, text=8)


def ltx_model() -> tuple[Any, dict[str, Any], VideoGrid]:
    """The same of LTX, which is told the sides of the grid."""
    import torch
    from diffusers import LTXVideoTransformer3DModel

    torch.manual_seed(9)
    model = LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=3,
        caption_channels=8,
    )
    inputs = {
        "hidden_states": torch.randn(1, 48, 4),
        "encoder_hidden_states": torch.randn(1, 6, 8),
        "timestep": torch.tensor([5]),
        "encoder_attention_mask": torch.ones(1, 6),
        "num_frames": 3,
        "height": 4,
        "width": 4,
    }
    return model.eval(), inputs, VideoGrid(3, 4, 4)


def in_a_pipe(model: Any) -> Any:
    """A pipe with this transformer."""
    pipe = wan()
    pipe.register_modules(transformer=model)
    return pipe


def cogvideox() -> tuple[Any, dict[str, Any], VideoGrid]:
    """A CogVideoXPipeline that makes latents from embeddings, its call, and its tokens."""
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline

    model, _, grid = cogvideox_model()
    pipe = CogVideoXPipeline(None, None, None, model, CogVideoXDDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe, _call(grid.text, 8, num_frames=9, height=64, width=64), grid


def ltx() -> tuple[Any, dict[str, Any], VideoGrid]:
    """An LTXPipeline of that kind."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline

    model, _, grid = ltx_model()
    pipe = LTXPipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, model)
    pipe.set_progress_bar_config(disable=True)
    masks = {f"{name}prompt_attention_mask": torch.ones(1, 6) for name in ("", "negative_")}
    return pipe, _call(6, 8, num_frames=17, height=128, width=128, **masks), grid


def wan_pipe() -> tuple[Any, dict[str, Any], VideoGrid]:
    """A WanPipeline of that kind."""
    return wan(), _call(7, 16, num_frames=5, height=64, width=64), VideoGrid(3, 4, 4)


def _call(tokens: int, channels: int, **size: Any) -> dict[str, Any]:
    import torch

    random = torch.Generator().manual_seed(3)
    both = torch.randn(2, 1, tokens, channels, generator=random)
    return {
        "prompt_embeds": both[0],
        "negative_prompt_embeds": both[1],
        "guidance_scale": 2.0,
        "num_inference_steps": STEPS,
        "output_type": "latent",
        **size,
    }
