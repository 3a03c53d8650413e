"""An exported folder with engines: what is built, who finds it, what is left of a failure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fake_tensorrt
import pytest
import tiny
import torch
from fake_tensorrt import names_of

import sdaccel
from sdaccel.errors import ExportError
from sdaccel.export import tensorrt_export
from sdaccel.export.manifest import Manifest
from sdaccel.export.tensorrt_export import export_engines

CUDA = torch.device("cuda")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, exported: Path, tmp_path: Path) -> Any:
    """A TensorRT, an empty cache, and an exporter that has its graphs already."""

    def export(pipe: Any, folder: Path, **options: Any) -> Manifest:
        shutil.copytree(exported, folder, dirs_exist_ok=True)
        return Manifest.read(folder)

    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tensorrt_export, "export", export)
    return fake_tensorrt.install(monkeypatch)


def test_engines_lie_beside_the_graphs_and_the_pass_takes_them(
    package: Any, tmp_path: Path
) -> None:
    told, folder = [], tmp_path / "sd"
    found = export_engines(
        tiny.stable_diffusion(),
        folder,
        CUDA,
        sizes=["16x16"],
        tell=lambda *each: told.append(each),
        components=None,
    )
    names = ["vae_decoder", "text_encoder", "unet"]
    assert sorted(found.engines) == sorted(names)
    assert sorted(told) == sorted(
        (f"{name}'s engine", index, 3) for index, name in enumerate(found.engines)
    )
    kept = [folder / "engines" / each / "engine.json" for each in names_of(folder / "engines")]
    about = [json.loads(each.read_text()) for each in kept]
    assert {each["component"] for each in about} == set(names)
    assert {(each["gpu"], each["sizes"], each["tensorrt"]) for each in about} == {
        (fake_tensorrt.GPU, "16x16", "10.13.3.9")
    }
    pipe = tiny.stable_diffusion()
    options = {"folder": folder, "sizes": ["16x16"], "parts": "all"}
    sdaccel.accelerate(pipe, "tensorrt", tensorrt=options)
    record = sdaccel.report(pipe)["tensorrt"]
    assert ("loaded" in record.seconds, "built" in record.seconds) == (True, False)
    assert not (tmp_path / "cache").exists()
    sdaccel.restore(pipe)
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={**options, "sizes": ["32x32"]})
    notes = sdaccel.report(pipe)["tensorrt"].notes
    assert f"unet: the engine in {folder / 'engines'} is for sizes 16x16" in notes
    assert (tmp_path / "cache").exists()


def test_nothing_is_left_where_an_engine_can_not_be_built(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_tensorrt.Builder, "build_serialized_network", lambda *_: None)
    with pytest.raises(ExportError, match="can't build an engine"):
        export_engines(tiny.stable_diffusion(), tmp_path / "new" / "sd", CUDA, sizes=["16x16"])
    assert list((tmp_path / "new").iterdir()) == []


def test_without_a_gpu_nothing_is_exported(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ExportError, match="needs a CUDA GPU, and torch finds none here"):
        export_engines(tiny.stable_diffusion(), tmp_path / "sd", CUDA)
    assert list(tmp_path.iterdir()) == []
