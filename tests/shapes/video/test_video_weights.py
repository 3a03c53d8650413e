from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import UMT5EncoderModel

from sdaccel import shapes
from sdaccel.shapes import weights
from sdaccel.shapes.video.models import DEFAULTS

FOLDER = Path(weights.__file__).parent / "video"


@pytest.fixture(scope="module")
def pipe() -> WanPipeline:
    pipe = shapes.load("video")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_pipeline_and_its_components_are_stock(pipe: WanPipeline) -> None:
    assert type(pipe) is WanPipeline
    assert type(pipe.transformer) is WanTransformer3DModel
    assert type(pipe.vae) is AutoencoderKLWan
    assert type(pipe.text_encoder) is UMT5EncoderModel
    assert type(pipe.scheduler) is UniPCMultistepScheduler
    assert shapes.call_defaults("video") == DEFAULTS


def test_the_weights_fit_into_the_wheel() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 40e6


def test_the_same_seed_draws_the_same_clip(pipe: WanPipeline) -> None:
    settings = {**shapes.call_defaults("video"), "num_inference_steps": 2, "output_type": "pt"}

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return pipe("a red circle moves left", generator=generator, **settings).frames

    first, other = draw(0), draw(1)
    assert first.shape == (1, 17, 3, 96, 96)
    assert torch.equal(draw(0), first)
    assert not torch.equal(first, other)


def test_a_prompt_outside_the_grammar_still_draws(pipe: WanPipeline) -> None:
    settings = {**shapes.call_defaults("video"), "num_inference_steps": 2, "output_type": "pt"}
    assert pipe("two zebras, ok?", **settings).frames.isfinite().all()


def test_clips_show_the_colours_and_relations_of_held_out_prompts(pipe: WanPipeline) -> None:
    found = shapes.clip_fidelity(pipe, count=12, batch_size=12, steps=15, progress=False)
    wrong = [found.parts[part] for part in ("background", "colour", "relation")]
    assert sum(wrong) <= 2, str(found)
    assert found.passed >= 3, str(found)
