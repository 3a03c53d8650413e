from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from sdaccel import shapes
from sdaccel.shapes import weights
from sdaccel.shapes.tokens import words

FOLDER = Path(weights.__file__).parent
FLOOR = 0.6


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return shapes.load("unet")


def test_the_pipeline_and_its_components_are_stock(pipe: StableDiffusionPipeline) -> None:
    assert type(pipe) is StableDiffusionPipeline
    assert type(pipe.unet) is UNet2DConditionModel
    assert type(pipe.vae) is AutoencoderKL
    assert type(pipe.text_encoder) is CLIPTextModel
    assert isinstance(pipe.tokenizer, CLIPTokenizer)
    assert type(pipe.scheduler) is DDIMScheduler
    assert pipe.safety_checker is None
    crossing = [name for name in pipe.unet.attn_processors if "attn2" in name]
    assert {name.split(".")[0] for name in crossing} == {"down_blocks", "mid_block", "up_blocks"}


def test_it_loads_without_a_network_in_the_dtype_asked_for(monkeypatch: Any) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("loading an embedded model opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert {part.dtype for part in _parts(shapes.load("unet"))} == {torch.float32}
    half = shapes.load("unet", dtype=torch.bfloat16)
    assert {part.dtype for part in _parts(half)} == {torch.bfloat16}


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"'sdxl'.*unet"):
        shapes.load("sdxl")


def test_the_weights_fit_into_the_wheel() -> None:
    size = sum(path.stat().st_size for path in (FOLDER / "unet").rglob("*") if path.is_file())
    assert size <= 30e6


def test_every_word_of_the_grammar_is_one_token(pipe: StableDiffusionPipeline) -> None:
    for word in words():
        assert len(pipe.tokenizer.tokenize(word)) == 1
    assert len(pipe.tokenizer.tokenize("zebra")) > 1


def test_the_same_seed_draws_the_same_picture(pipe: StableDiffusionPipeline) -> None:
    pipe.set_progress_bar_config(disable=True)

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        prompt = "a large red circle on a green background"
        return pipe(prompt, num_inference_steps=3, generator=generator, output_type="pt").images

    assert draw(0).shape == (1, 3, 64, 64)
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_pictures_show_what_held_out_prompts_say(pipe: StableDiffusionPipeline) -> None:
    found = shapes.prompt_fidelity(pipe, count=20, steps=15, batch_size=20, progress=False)
    assert found.share >= FLOOR, str(found)


def test_importing_shapes_imports_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys, sdaccel.shapes.grammar, sdaccel.shapes.weights; "
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _parts(pipe: StableDiffusionPipeline) -> tuple[Any, ...]:
    return pipe.unet, pipe.vae, pipe.text_encoder
