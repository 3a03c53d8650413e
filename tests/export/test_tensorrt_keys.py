"""Keys: what makes two engines one, and which of two graphs differ in their weights alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_graph import graph

from sdaccel.errors import ExportError
from sdaccel.export.manifest import ComponentEntry
from sdaccel.export.tensorrt_keys import EngineKey, Recipe, key_of, structure
from sdaccel.export.tensorrt_profiles import Profile
from sdaccel.export.tensorrt_runtime import Gpu

pytest.importorskip("onnx")

PROFILE = Profile("8x8", {"x": ((1, 4), (2, 4), (2, 4))}, {})
GPU = Gpu("One", (9, 0))
ENTRY = ComponentEntry("X", "model.onnx", "fp32", (), (), {}, {"model.onnx": "1"})


def test_other_weights_leave_the_structure_as_it_is(tmp_path: Path) -> None:
    one = structure(graph(tmp_path / "a.onnx"))
    assert structure(graph(tmp_path / "b.onnx", weight=5.0)) == one
    outside = structure(graph(tmp_path / "c" / "c.onnx", outside=True))
    assert structure(graph(tmp_path / "d" / "d.onnx", weight=5.0, outside=True)) == outside


@pytest.mark.parametrize("change", [{"number": 4.0}, {"scale": 3.0}, {"axis": 0}, {"name": "v"}])
def test_what_a_refit_does_not_reach_is_part_of_the_structure(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    assert structure(graph(tmp_path / "a.onnx")) != structure(graph(tmp_path / "b.onnx", **change))
    one = structure(graph(tmp_path / "c" / "c.onnx", outside=True))
    assert structure(graph(tmp_path / "d" / "d.onnx", outside=True, **change)) != one


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": Recipe((PROFILE, PROFILE))},
        {"recipe": Recipe((PROFILE,), refit=False)},
        {"recipe": Recipe((PROFILE,), level=5)},
        {"recipe": Recipe((PROFILE,), tf32=True)},
        {"gpu": Gpu("Two", (9, 0))},
        {"gpu": Gpu("One", (8, 9))},
        {"version": "11.4.0"},
    ],
)
def test_profile_settings_gpu_and_version_are_part_of_the_structure(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    usual = {"recipe": Recipe((PROFILE,)), "gpu": GPU, "version": "10.13.0"}
    path = graph(tmp_path / "a.onnx")
    one = key_of(path, ENTRY, **usual)
    assert key_of(path, ENTRY, **usual) == one
    other = key_of(path, ENTRY, **{**usual, **change})
    assert other.structure != one.structure
    assert other.weights == one.weights


def test_weights_have_a_sum_of_their_own(tmp_path: Path) -> None:
    path, recipe = graph(tmp_path / "a.onnx"), Recipe((PROFILE,))
    one = key_of(path, ENTRY, recipe, GPU, "10")
    other = key_of(path, replace(ENTRY, checksums={"model.onnx": "2"}), recipe, GPU, "10")
    assert (one.structure, one.weights != other.weights) == (other.structure, True)
    assert EngineKey("a", "b").name == "a-b"


def test_what_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="can't be read"):
        structure(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="can't be read"):
        structure(tmp_path / "absent.onnx")


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = graph(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"pip install sdaccel\[tensorrt\]"):
        structure(path)
