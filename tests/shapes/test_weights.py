from __future__ import annotations

import inspect
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FluxPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from sdaccel import shapes
from sdaccel.shapes import weights
from sdaccel.shapes.tokens import words

FOLDER = Path(weights.__file__).parent
FLOOR = 0.6
WEIGHTS = Path("transformer", "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return shapes.load("unet")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an embedded model named "tiny" that is no Stable Diffusion."""
    folder = tmp_path / "tiny"
    tiny.flux().save_pretrained(folder)
    weights.seal(folder, {"num_inference_steps": 4, "true_cfg_scale": 2.0})
    monkeypatch.setattr(weights, "_FOLDER", tmp_path)
    return folder


def test_a_model_is_the_pipeline_that_it_was_saved_as(model: Path) -> None:
    pipe = shapes.load("tiny", dtype=torch.float16)
    assert type(pipe) is FluxPipeline
    assert pipe.transformer.dtype == torch.float16
    assert shapes.call_defaults("tiny") == {"num_inference_steps": 4, "true_cfg_scale": 2.0}


@pytest.mark.parametrize("name", shapes.names())
def test_every_model_is_sealed_and_its_call_takes_its_defaults(name: str) -> None:
    weights.verify(FOLDER / name)
    files = {path.relative_to(FOLDER / name) for path in (FOLDER / name).rglob("*.safetensors")}
    assert {Path(each) for each in weights.checksums.read(FOLDER / name)} == files
    call = type(shapes.load(name)).__call__
    assert shapes.call_defaults(name).keys() <= inspect.signature(call).parameters.keys()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        (WEIGHTS, Path.unlink, "is missing"),
        (WEIGHTS, _cut, r"is truncated to \d+ of \d+ bytes"),
        (WEIGHTS, _flip, "has a wrong checksum"),
        ("checksums.json", Path.unlink, "can't be read"),
        ("checksums.json", _cut, "can't be read"),
        ("vae", shutil.rmtree, "is missing"),
    ],
)
def test_a_damaged_model_is_refused_with_the_file_and_what_to_do(
    model: Path, name: str | Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(model / name)
    with pytest.raises(shapes.WeightsError, match=says) as caught:
        shapes.load("tiny")
    assert str(model / name) in str(caught.value)
    assert "reinstall sdaccel" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defaults_that_cannot_be_read_are_refused(model: Path) -> None:
    (model / "defaults.json").unlink()
    with pytest.raises(shapes.WeightsError, match=r"defaults\.json can't be read: reinstall"):
        shapes.call_defaults("tiny")


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
    for ask in (shapes.load, shapes.call_defaults):
        with pytest.raises(ValueError, match=r"'sdxl'.*unet"):
            ask("sdxl")


@pytest.mark.parametrize("name", shapes.names())
def test_the_weights_fit_into_the_wheel(name: str) -> None:
    size = sum(path.stat().st_size for path in (FOLDER / name).rglob("*") if path.is_file())
    assert size <= {"video": 40e6}.get(name, 30e6)


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
