"""Tiny text-to-video pipelines of stock diffusers classes with random weights; and film readers."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny


def wan(**changes: Any) -> Any:
    """A WanPipeline whose VAE shrinks 2-fold in time and 8-fold in space; 16x16 pixels at least."""
    import torch
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(5)
    tokenizer = tiny.tokenizer()
    text = {"vocab_size": len(tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1}
    parts = {
        "tokenizer": tokenizer,
        "text_encoder": UMT5EncoderModel(UMT5Config(**text, num_heads=2)).eval(),
        "transformer": WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=1,
            rope_max_seq_len=8,
        ).eval(),
        "vae": AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, False, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
            scale_factor_temporal=2,
            scale_factor_spatial=8,
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }
    pipe = WanPipeline(**{**parts, **changes})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def animate_diff() -> Any:
    """An AnimateDiffPipeline of at most 8 frames, 16x16 pixels as Stable Diffusion's tiny one."""
    import torch
    from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter

    torch.manual_seed(6)
    adapter = MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        motion_max_seq_length=8,
        use_motion_mid_block=False,
    )
    pipe = AnimateDiffPipeline(
        vae=tiny.vae(),
        text_encoder=tiny.text_encoder(),
        tokenizer=tiny.tokenizer(),
        unet=tiny.unet(),
        motion_adapter=adapter,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1, beta_schedule="linear"),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, **changes: Any) -> Any:
    """One step of a clip of 5 frames, 16x16 pixels, from a fixed seed; bytes (F, H, W, 3)."""
    import numpy
    import torch

    options = {
        "prompt": "a cat",
        "num_frames": 5,
        "height": 16,
        "width": 16,
        "num_inference_steps": 1,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(0),
    }
    (clip,) = pipe(**{**options, **changes}).frames
    return (numpy.asarray(clip) * 255).round().astype(numpy.uint8)


@dataclass(frozen=True)
class Film:
    """What a player finds in a file: frames (F, H, W, 3) in bytes, and frames a second."""

    frames: Any
    fps: float


def read_mp4(path: str | Path) -> Film:
    """Decode a whole film with ffmpeg itself."""
    import numpy
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    said = done.stderr.decode()
    told = re.search(r"h264.*yuv420p.* (\d+)x(\d+).* ([\d.]+) fps", said)
    assert told is not None, said
    width, height = int(told[1]), int(told[2])
    frames = numpy.frombuffer(done.stdout, numpy.uint8).reshape(-1, height, width, 3)
    return Film(frames, float(told[3]))


def read_gif(path: str | Path) -> Film:
    """Decode a whole animation with Pillow; the rate is that of all frames together."""
    import numpy
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        assert image.info["loop"] == 0
        frames, seconds = [], 0.0
        for frame in ImageSequence.Iterator(image):
            frames.append(numpy.asarray(frame.convert("RGB")))
            seconds += frame.info["duration"] / 1000
    return Film(numpy.stack(frames), len(frames) / seconds)
