from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextModel, T5EncoderModel

from sdaccel import shapes
from sdaccel.shapes import weights
from sdaccel.shapes.dit import DEFAULTS

FOLDER = Path(weights.__file__).parent / "dit"
FLOOR = 0.6


@pytest.fixture(scope="module")
def pipe() -> FluxPipeline:
    pipe = shapes.load("dit")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_pipeline_and_its_components_are_stock(pipe: FluxPipeline) -> None:
    assert type(pipe) is FluxPipeline
    assert type(pipe.transformer) is FluxTransformer2DModel
    assert type(pipe.vae) is AutoencoderKL
    assert type(pipe.text_encoder) is CLIPTextModel
    assert type(pipe.text_encoder_2) is T5EncoderModel
    assert type(pipe.scheduler) is FlowMatchEulerDiscreteScheduler
    assert shapes.call_defaults("dit") == DEFAULTS


def test_the_weights_fit_into_the_wheel() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 30e6


def test_the_same_seed_draws_the_same_picture(pipe: FluxPipeline) -> None:
    settings = {**shapes.call_defaults("dit"), "num_inference_steps": 3, "output_type": "pt"}

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        prompt = "a large red circle on a green background"
        return pipe(prompt, generator=generator, **settings).images

    assert draw(0).shape == (1, 3, 64, 64)
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_a_prompt_outside_the_grammar_still_draws(pipe: FluxPipeline) -> None:
    settings = {**shapes.call_defaults("dit"), "num_inference_steps": 2, "output_type": "pt"}
    assert pipe("two zebras, ok?", **settings).images.isfinite().all()


def test_pictures_show_what_held_out_prompts_say(pipe: FluxPipeline) -> None:
    settings = {**shapes.call_defaults("dit"), "num_inference_steps": 15}
    found = shapes.prompt_fidelity(pipe, count=20, batch_size=20, progress=False, **settings)
    assert found.share >= FLOOR, str(found)
