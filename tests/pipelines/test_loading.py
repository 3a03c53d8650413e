"""Whatever is no model is refused with one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import diffusers
import pytest
import tiny
import torch
from huggingface_hub import errors as hub
from safetensors.torch import save_file

from sdaccel import pipelines, shapes
from sdaccel.errors import ModelNotFoundError
from sdaccel.export.manifest import ComponentEntry, Manifest
from sdaccel.pipelines.loading import clear_errors, load_pipeline, with_sessions
from sdaccel.plan import Plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "saved"
    tiny.stable_diffusion().save_pretrained(path)
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's library refuses to connect, and its cache is empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def refusal(model: Any, load: Any = load_pipeline) -> str:
    with pytest.raises(ModelNotFoundError) as caught:
        load(model)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def drop_in(model: Any) -> Any:
    return pipelines.StableDiffusionPipeline.from_pretrained(model, plan=None)


def single_file(model: Any) -> Any:
    return pipelines.StableDiffusionPipeline.from_single_file(model, plan=None)


def test_a_saved_folder_gives_the_stock_pipeline(folder: Path) -> None:
    assert type(load_pipeline(folder)) is diffusers.StableDiffusionPipeline
    assert type(load_pipeline(str(folder))) is diffusers.StableDiffusionPipeline


@pytest.mark.parametrize("name", shapes.names())
def test_an_embedded_model_gives_the_stock_pipeline(name: str) -> None:
    pipe = load_pipeline(f"shapes-{name}")
    assert type(pipe) is getattr(diffusers, type(pipe).__name__)


def test_an_unknown_embedded_model_is_refused() -> None:
    assert "shapes-nothing" in refusal("shapes-nothing")


def test_a_damaged_embedded_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = Mock(side_effect=shapes.WeightsError("unet.safetensors is truncated: reinstall."))
    monkeypatch.setattr(shapes, "load", damaged, raising=False)
    sentence = refusal("shapes-unet")
    assert sentence == "shapes-unet can't be loaded: unet.safetensors is truncated: reinstall."


@pytest.mark.parametrize("load", [load_pipeline, drop_in])
def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path, folder: Path, load: Any) -> None:
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in refusal(tmp_path / "empty", load)
    assert "one component" in refusal(folder / "unet", load)


@pytest.mark.parametrize("load", [load_pipeline, drop_in, single_file])
@pytest.mark.parametrize(
    "model", ["./nowhere", "/no/such/folder", "a b", "x.safetensors", "../x/y"]
)
def test_what_is_neither_a_path_nor_an_id_is_refused(model: str, load: Any) -> None:
    assert f"'{model}'" in refusal(model, load)


@pytest.mark.parametrize("load", [load_pipeline, drop_in, single_file])
@pytest.mark.parametrize("model", [None, 7, "", " ", Path("nowhere/at-all")])
def test_what_is_no_name_is_refused(model: Any, load: Any) -> None:
    refusal(model, load)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("load", [load_pipeline, drop_in])
def test_a_hub_id_while_offline_is_refused(load: Any) -> None:
    sentence = refusal("somebody/something", load)
    assert "somebody/something" in sentence
    assert "can't be reached" in sentence


def test_files_and_folders_name_each_others_verb(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").touch()
    assert "from_single_file" in refusal(str(tmp_path / "x.safetensors"), drop_in)
    assert "from_pretrained" in refusal(str(folder), single_file)


def test_a_damaged_folder_is_refused(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert str(folder) in refusal(folder)
    assert str(folder) in refusal(folder, drop_in)
    (folder / "model_index.json").write_text("{")
    assert "JSON" in refusal(folder)


def test_a_folder_that_misses_weights_is_refused(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "diffusion_pytorch_model" in refusal(folder)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no weights")
    assert "no checkpoint" in refusal(tmp_path / "notes.txt")
    (tmp_path / "broken.safetensors").write_text("no weights")
    assert "broken.safetensors can't be loaded" in refusal(tmp_path / "broken.safetensors")
    (tmp_path / "old.ckpt").write_bytes(b"pickle")
    assert "convert it" in refusal(tmp_path / "old.ckpt")


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert "no model that diffusers knows" in refusal(tmp_path / "other.safetensors")


@pytest.mark.usefixtures("offline")
def test_a_checkpoint_needs_the_description_of_its_model(tmp_path: Path) -> None:
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 4, 3, 3)}
    save_file(weights, tmp_path / "model.safetensors")
    sentence = refusal(tmp_path / "model.safetensors")
    assert "stable-diffusion-v1-5" in sentence
    assert "can't be reached" in sentence


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (hub.GatedRepoError("words", response=Mock()), "accept its terms"),
        (hub.RepositoryNotFoundError("words", response=Mock()), "no repository o/n"),
        (hub.EntryNotFoundError("words"), "o/n can't be loaded: diffusers' own words"),
    ],
)
def test_what_the_hub_says_becomes_a_sentence(error: Any, words: str) -> None:
    with pytest.raises(ModelNotFoundError, match=words), clear_errors("o/n"):
        raise OSError("diffusers'\nown words") from error


def test_other_mistakes_pass_through() -> None:
    with pytest.raises(TypeError, match="unrelated"), clear_errors("o/n"):
        raise TypeError("unrelated")


@pytest.mark.parametrize(
    ("exported", "plan", "runtime", "precision"),
    [
        ("bf16", "lossless", "onnxruntime", "bf16"),
        ("bf16", "onnxruntime", "onnxruntime", "bf16"),
        ("int8", "openvino", "openvino", "int8"),
        ("bf16", "openvino", "openvino", "auto"),
        ("fp16", "tensorrt", "tensorrt", "auto"),
    ],
)
def test_an_exported_folder_s_graphs_are_computed_in_their_own_precision(
    exported: Any, plan: str, runtime: str, precision: str, tmp_path: Path
) -> None:
    entry = ComponentEntry("", "unet/model.onnx", exported, (), (), {}, {"unet/model.onnx": "0"})
    Manifest("0", {}, "", {"unet": entry}).write(tmp_path)
    (found,) = [each for each in with_sessions(Plan.of(plan), tmp_path).passes if each.order == 2]
    assert (found.name, found.options["precision"]) == (runtime, precision)
    asked = Plan.of("onnxruntime").override(onnxruntime={"precision": "int4"})
    assert with_sessions(asked, tmp_path) == asked
    assert with_sessions(Plan.of(plan), tmp_path / "other") == Plan.of(plan)
