"""A manifest comes back as it was written, and says what is wrong with a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdaccel.errors import ExportError
from sdaccel.export.manifest import FILE, ComponentEntry, Manifest, TensorInfo, checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export of one model, whose files hold what no runtime would take."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.onnx").write_bytes(b"graph")
    (tmp_path / "unet" / "model.onnx.data").write_bytes(b"weights" * 1000)
    entry = ComponentEntry(
        class_name="UNet2DConditionModel",
        file="unet/model.onnx",
        precision="fp16",
        inputs=(TensorInfo("sample", "float16", ("batch", 4, "height", "width")),),
        outputs=(TensorInfo("sample", "float16", ("batch", 4, "height", "width")),),
        arguments={"sample": "sample"},
        checksums=checksums(tmp_path, "unet"),
    )
    versions = {"torch": "2.13.0", "diffusers": "0.42.1", "onnx": "1.23.2", "opset": "23"}
    Manifest("0.1.0", versions, "StableDiffusionPipeline", {"unet": entry}).write(tmp_path)
    return tmp_path


def rewrite(folder: Path, *keys: str, value: Any) -> None:
    """Set one value deep inside a manifest."""
    content = json.loads((folder / FILE).read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / FILE).write_text(json.dumps(content))


def test_what_was_written_is_read(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    manifest = Manifest.read(folder)
    entry = manifest.component("unet")
    assert entry.inputs[0].shape == ("batch", 4, "height", "width")
    assert set(entry.checksums) == {"unet/model.onnx", "unet/model.onnx.data"}
    other = tmp_path_factory.mktemp("other")
    manifest.write(other)
    assert Manifest.read(other) == manifest
    manifest.verify(folder)


@pytest.mark.parametrize("file", ["model.onnx", "model.onnx.data"])
def test_a_changed_file_is_found(folder: Path, file: str) -> None:
    path = folder / "unet" / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ExportError, match=rf"{file} is truncated or was changed.*export"):
        Manifest.read(folder).verify(folder)


def test_a_truncated_and_a_missing_file_are_found(folder: Path) -> None:
    path = folder / "unet" / "model.onnx.data"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExportError, match="truncated"):
        Manifest.read(folder).verify(folder, ["unet"])
    path.unlink()
    with pytest.raises(ExportError, match="is missing"):
        Manifest.read(folder).verify(folder)


def test_a_folder_of_another_format_names_who_wrote_it(folder: Path) -> None:
    rewrite(folder, "format", value=2)
    rewrite(folder, "sdaccel", value="9.9.0")
    with pytest.raises(ExportError, match=r"by sdaccel 9\.9\.0 in format 2.*reads format 1"):
        Manifest.read(folder)


def test_a_folder_without_a_manifest_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no exported pipeline"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("components",), 3),
        (("components", "unet", "precision"), "fp3"),
        (("components", "unet", "inputs"), [{"name": "sample"}]),
        (("components", "unet", "file"), "../elsewhere/model.onnx"),
        (("components", "unet", "file"), "/etc/model.onnx"),
        (("components", "unet", "checksums"), {}),
        (("components", "unet", "checksums"), {"unet/model.onnx": "0", "../weights": "0"}),
    ],
)
def test_a_damaged_manifest_is_refused(folder: Path, keys: tuple[str, ...], value: Any) -> None:
    rewrite(folder, *keys, value=value)
    with pytest.raises(ExportError, match=r"manifest\.json is damaged"):
        Manifest.read(folder)


def test_a_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / FILE).write_text((folder / FILE).read_text()[:-20])
    with pytest.raises(ExportError, match="is damaged"):
        Manifest.read(folder)


def test_a_component_that_is_not_there_lists_those_that_are(folder: Path) -> None:
    with pytest.raises(ExportError, match="No 'vae_decoder' was exported, only unet"):
        Manifest.read(folder).component("vae_decoder")
