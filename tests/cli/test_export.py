"""sdaccel export: what it takes, what it says, and the exit code of what can't be exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

import sdaccel.export as exporting
from sdaccel.cli import main
from sdaccel.errors import ExportError
from sdaccel.export.manifest import ComponentEntry, Manifest, checksums
from sdaccel.pipelines import loading


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each export; one text encoder of five bytes is written."""
    calls: list[dict[str, Any]] = []

    def export(pipe: Any, folder: Path, tell: Any, **options: Any) -> Manifest:
        calls.append({"pipe": type(pipe).__name__, **options})
        tell("text_encoder", 0, 1)
        (folder / "text_encoder").mkdir(parents=True)
        (folder / "text_encoder" / "model.onnx").write_bytes(b"graph")
        entry = ComponentEntry(
            class_name="CLIPTextModel",
            file="text_encoder/model.onnx",
            precision="fp16",
            inputs=(),
            outputs=(),
            arguments={},
            checksums=checksums(folder, "text_encoder"),
        )
        return Manifest("0", {}, "StableDiffusionPipeline", {"text_encoder": entry})

    monkeypatch.setattr(exporting, "export", export)
    monkeypatch.setattr(loading, "load_pipeline", lambda _: tiny.stable_diffusion())
    return calls


def test_what_was_asked_for_is_exported_and_listed(
    asked: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "onnx"
    words = ["export", "shapes-unet", "--to", "onnx", "-o", str(folder), "--precision", "fp16"]
    assert main([*words, "--components", "text_encoder", "--no-check"]) == 0
    assert asked == [
        {
            "pipe": "StableDiffusionPipeline",
            "components": ["text_encoder"],
            "precision": "fp16",
            "attention": "decomposed",
            "check": False,
        }
    ]
    out = capsys.readouterr().out
    assert f"{folder}/text_encoder/model.onnx: CLIPTextModel, fp16, 0.0 MB" in out


def test_json_has_the_manifest_s_components(
    asked: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "shapes-unet", "-o", str(tmp_path / "onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(tmp_path / "onnx")
    assert found["components"]["text_encoder"]["class"] == "CLIPTextModel"


def test_what_can_not_be_exported_is_one_sentence_and_code_4(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(*given: Any, **options: Any) -> Manifest:
        raise ExportError("unet (UNet2DConditionModel) can't be exported.")

    monkeypatch.setattr(exporting, "export", export)
    monkeypatch.setattr(loading, "load_pipeline", lambda _: tiny.stable_diffusion())
    assert main(["export", "shapes-unet", "-o", str(tmp_path / "onnx")]) == 4
    assert "sdaccel: unet (UNet2DConditionModel) can't be exported." in capsys.readouterr().err


def test_a_format_that_is_not_written_and_a_missing_folder_are_refused() -> None:
    assert main(["export", "shapes-unet", "--to", "coreml", "-o", "folder"]) == 2
    assert main(["export", "shapes-unet"]) == 2


def test_int8_is_calibrated_on_prompts(
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sdaccel.export.quantize import Quantized

    made: dict[str, Any] = {}

    def export_int8(pipe: Any, folder: Path, draw: Any, **options: Any) -> Quantized:
        made.update(folder=folder, drawn=draw(), **options)
        entry = ComponentEntry("", "", "int8", (), (), {}, {})
        return Quantized(Manifest("0", {}, "", {"unet": entry}), {"Conv": 3}, ("conv_in",), {})

    monkeypatch.setattr("sdaccel.export.int8.export_int8", export_int8)
    (tmp_path / "prompts.txt").write_text("abc\nde\n")
    folder = tmp_path / "int8"
    words = ["export", "mine", "-o", str(folder), "--precision", "int8", "--float-outputs"]
    assert main(words) == 2
    assert "has no prompts of its own" in capsys.readouterr().err
    assert main([*words, "--prompts", str(tmp_path / "prompts.txt"), "--steps", "2"]) == 0
    assert len(made.pop("drawn")) == 2
    made.pop("tell")
    assert made == {
        "folder": folder,
        "outputs": False,
        "components": None,
        "attention": "decomposed",
        "check": True,
    }
    assert "in int8: 3 Conv; 1 layers keep their precision" in capsys.readouterr().out


def test_what_is_for_int8_alone_and_a_folder_that_holds_something_are_refused(
    asked: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "mine", "-o", str(tmp_path)]
    assert main([*words, "--steps", "3"]) == 2
    assert "--steps is for --precision int8" in capsys.readouterr().err
    (tmp_path / "prompts.txt").write_text("abc\n")
    asked_for = ["--precision", "int8", "--prompts", str(tmp_path / "prompts.txt")]
    assert main([*words, *asked_for]) == 4
    assert "is not empty" in capsys.readouterr().err
    assert not asked


def test_engines_are_built_for_the_sizes_and_listed(
    asked: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sdaccel.export import tensorrt_export
    from sdaccel.export.tensorrt_engines import Opened
    from sdaccel.export.tensorrt_export import Exported

    def export_engines(pipe: Any, folder: Path, device: Any, **options: Any) -> Exported:
        given.update(options, device=str(device))
        bar = given.pop("bars")(desc="Timing tactics", total=2, leave=False)
        bar.update(1)
        bar.close()
        manifest = exporting.export(pipe, folder, tell=given.pop("tell"))
        return Exported(manifest, {"unet": Opened(None, "built", 61.2, 5_000_000)})

    given: dict[str, Any] = {}
    monkeypatch.setattr(tensorrt_export, "check_gpu", lambda _: None)
    monkeypatch.setattr(tensorrt_export, "export_engines", export_engines)
    words = ["export", "shapes-unet", "--to", "tensorrt", "-o", str(tmp_path / "sd")]
    sizes = ["--sizes", "768x512", "512", "--batch", "2", "--precision", "fp16"]
    assert main([*words, *sizes]) == 0
    assert given == {
        "sizes": ["768x512", "512"],
        "batch": 2,
        "tokens": None,
        "device": "cuda",
        "components": None,
        "precision": "fp16",
        "attention": "decomposed",
        "check": True,
    }
    out = capsys.readouterr().out
    assert "unet: an engine of 5.0 MB, built in 61 s" in out
    assert "text_encoder/model.onnx: CLIPTextModel" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "tensorrt", "--precision", "int8"], "No engine is built in int8"),
        (["--to", "tensorrt", "--sizes", "wide"], "For --sizes a size is WIDTHxHEIGHT"),
        (["--to", "tensorrt", "--batch", "0"], "--batch and --tokens are 1 at least"),
        (["--sizes", "512"], "--sizes is for --to tensorrt"),
        (["--to", "onnx", "--tokens", "77"], "--tokens is for --to tensorrt"),
    ],
)
def test_what_is_wrong_with_engines_is_told_before_a_model_is_loaded(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "load_pipeline", lambda _: pytest.fail("a model is loaded"))
    assert main(["export", "shapes-unet", "-o", "folder", *words]) != 0
    assert told in capsys.readouterr().err


def test_without_a_gpu_no_model_is_loaded_for_engines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(loading, "load_pipeline", lambda _: pytest.fail("a model is loaded"))
    assert main(["export", "shapes-unet", "--to", "tensorrt", "-o", "folder"]) == 4
    assert "TensorRT needs a CUDA GPU, and torch finds none here" in capsys.readouterr().err
