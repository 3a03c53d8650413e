from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline

from sdaccel.shapes.video.models import (
    DEFAULTS,
    build_autoencoder,
    build_pipeline,
    build_text_encoder,
    build_transformer,
)
from sdaccel.shapes.video.tokens import build_tokenizer

PROMPT = "a red circle moves left above a still green square"


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The pipeline with untrained weights."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    parts = build_autoencoder(), build_text_encoder(tokenizer), tokenizer, build_transformer()
    pipe = build_pipeline(*parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clip(pipe: Any) -> np.ndarray:
    settings = {**DEFAULTS, "num_inference_steps": 2}
    noise = torch.Generator().manual_seed(0)
    frames: np.ndarray = pipe(PROMPT, generator=noise, output_type="np", **settings).frames
    return frames


def test_the_pipeline_is_stock_and_makes_the_promised_clip_after_saving_and_loading(
    pipe: Any, tmp_path: Path
) -> None:
    made = clip(pipe)
    assert made.shape == (1, 17, 96, 96, 3)
    assert np.isfinite(made).all()
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is WanPipeline
    np.testing.assert_allclose(clip(loaded), made, atol=1e-5)


def test_the_latents_are_those_that_the_transformer_is_made_for(pipe: Any) -> None:
    with torch.no_grad():
        latents = pipe.vae.encode(torch.zeros(1, 3, 17, 96, 96)).latent_dist.mode()
        assert latents.shape == (1, 16, 9, 12, 12)
        assert pipe.vae.decode(latents).sample.shape == (1, 3, 17, 96, 96)


def test_in_half_precision_it_is_at_most_40_mb(pipe: Any) -> None:
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    weights = sum(weight.numel() for module in modules for weight in module.parameters())
    assert 2 * weights < 40e6
