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
