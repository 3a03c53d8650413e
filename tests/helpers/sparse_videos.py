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


def in_a_pipe(model: Any) -> Any:
    """A pipe with this transformer."""
    pipe = wan()
    pipe.register_modules(transformer=model)
    return pipe
