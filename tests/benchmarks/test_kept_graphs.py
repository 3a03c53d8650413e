"""Graphs are exported and calibrated once for all rungs of a run, and gone when it ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from sdaccel.benchmarks import kept_graphs, rungs
from sdaccel.benchmarks.measure import relative_error
from sdaccel.benchmarks.workloads import workload
from sdaccel.export import quantize
from sdaccel.export.manifest import Manifest
from sdaccel.target import Target


def test_rungs_of_a_run_share_one_export_and_one_calibration(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def export(pipe: Any, folder: Path, **options: Any) -> None:
        made.append(options)
        shutil.copytree(exported, folder)

    def calibrate(*given: Any, **options: Any) -> quantize.Calibration:
        made.append(stock(*given, **options))
        return made[-1]

    stock = quantize.calibrate
    monkeypatch.setenv(kept_graphs.FOLDER, str(tmp_path))
    monkeypatch.setattr("sdaccel.export.export", export)
    monkeypatch.setattr(quantize, "calibrate", calibrate)
    pipe = tiny.stable_diffusion()

    def draw() -> Any:
        return tiny.draw(pipe)

    spent = []
    for outputs in (True, False, True):
        whole = kept_graphs.in_fp32(pipe, list(Target.of(pipe).denoisers))
        kept = kept_graphs.in_int8(whole, pipe, "tiny (quick)", draw, None, outputs)
        small = kept.folder
        spent.append((whole.spent, kept.spent))
        unet = Manifest.read(small).component("unet")
        nodes = (small / unet.file).read_bytes().count(b"QuantizeLinear")
        assert (unet.precision, whole.folder.parent, small.parent) == ("int8", tmp_path, tmp_path)
        made.append(nodes)
    asked, calibration, with_outputs, without, again = made
    assert asked.pop("rest") is False, "the pipe that they compute for has the other weights"
    assert asked == {"components": ["unet"], "precision": "fp32", "check": False}
    assert with_outputs == again > without > 0
    (noted,) = tmp_path.glob("*.json")
    assert kept_graphs._read(noted) == calibration
    assert spent[0] == (0, 0)
    assert spent[1][0] == spent[2][0] > 0
    assert spent[1][0] < spent[1][1] < spent[2][1], "a rung alone would have exported, calibrated"


def test_the_peer_on_onnx_runtime_is_exported_once_for_the_processes_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    exported: list[Path] = []

    def export(function: Any, inputs: Any, path: Path, **options: Any) -> None:
        exported.append(path)
        stock(function, inputs, path, **options)

    stock = torch.onnx.export
    monkeypatch.setenv(kept_graphs.FOLDER, str(tmp_path))
    monkeypatch.setattr(torch.onnx, "export", export)
    chosen = workload("tiny")
    wanted = chosen.prepare(chosen.build())()
    for _ in range(2):
        pipe = chosen.build()
        with rungs.rung("onnxruntime").open(pipe, chosen):
            assert relative_error(chosen.prepare(pipe)(), wanted) < 1e-4
    assert [each.name for each in exported] == ["0.onnx", "1.onnx"]
    assert {each.parent.parent for each in exported} == {tmp_path}


def test_graphs_at_their_shapes_are_of_these_weights_and_this_workload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kept_graphs.FOLDER, str(tmp_path))
    pipe, made = tiny.stable_diffusion(), list[Path]()

    def at(label: str) -> Path:
        return kept_graphs.at_its_shapes(pipe, ["unet"], label, made.append)

    assert at("tiny") == at("tiny") != at("tiny (quick)")
    pipe.unet.conv_in.weight.data.mul_(2)
    assert at("tiny") not in made[:2]
    assert len(made) == 3


def test_the_folder_goes_with_the_process_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kept_graphs.FOLDER, raising=False)
    code = (
        "import subprocess, sys; from sdaccel.benchmarks.kept_graphs import _home\n"
        "again = 'from sdaccel.benchmarks.kept_graphs import _home; print(_home())'\n"
        "print(_home(), _home().is_dir(), flush=True)\n"
        "subprocess.run([sys.executable, '-c', again], check=True)\n"
        "print(_home().is_dir())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, inner, last = done.stdout.splitlines()
    assert first == f"{inner} True"
    assert last == "True", "a process that was started leaves it alone"
    assert not Path(inner).exists()
