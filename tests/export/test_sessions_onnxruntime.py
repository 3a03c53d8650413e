"""ONNX Runtime's engine: tensors bound where they lie, and tensors that stay for a CUDA graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from sdaccel.errors import ExportError
from sdaccel.export import sessions_onnxruntime
from sdaccel.export.manifest import Manifest
from sdaccel.export.sessions_onnxruntime import OnnxRuntimeEngine, providers_for

CPU = torch.device("cpu")


def engine_of(folder: Path) -> OnnxRuntimeEngine:
    entry = Manifest.read(folder).component("unet")
    return OnnxRuntimeEngine.open(folder / entry.file, entry, CPU)


def inputs(engine: OnnxRuntimeEngine, batch: int = 2) -> dict[str, torch.Tensor]:
    dtype = getattr(torch, next(x.dtype for x in engine.entry.inputs if x.name == "timestep"))
    return {
        "sample": torch.randn(batch, 4, 8, 8),
        "timestep": torch.full((batch,), 7, dtype=dtype),
        "encoder_hidden_states": torch.randn(batch, 16, 32),
    }


def test_outputs_are_written_where_torch_has_them(exported: Path) -> None:
    engine = engine_of(exported)
    given = inputs(engine)
    first, second = engine.run(given)["out_sample"], engine.run(given)["out_sample"]
    assert first.shape == (2, 4, 8, 8)
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_fixed_tensors_are_bound_once_for_each_size_and_never_handed_out(exported: Path) -> None:
    engine = engine_of(exported)
    given = [inputs(engine), inputs(engine), inputs(engine, batch=1)]
    truths = [engine.run(each)["out_sample"] for each in given]
    engine.fixed = True
    found = [engine.run(each)["out_sample"] for each in given]
    assert len(engine._sizes) == 2
    for one, truth in zip(found, truths, strict=True):
        assert torch.equal(one, truth)
    held = [each.outputs["out_sample"].data_ptr() for each in engine._sizes.values()]
    assert not {each.data_ptr() for each in found}.intersection(held)


def test_a_cuda_graph_asks_for_fixed_tensors(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Manifest.read(exported).component("unet")
    options = {"CPUExecutionProvider": {"enable_cuda_graph": "1"}}
    made = SimpleNamespace(
        SessionOptions=SimpleNamespace,
        InferenceSession=Mock(),
        get_available_providers=lambda: ["CPUExecutionProvider"],
    )
    monkeypatch.setattr(sessions_onnxruntime, "runtime", lambda: made)
    path = exported / entry.file
    assert OnnxRuntimeEngine.open(path, entry, CPU, None, options).fixed
    assert not OnnxRuntimeEngine.open(path, entry, CPU).fixed


def test_a_device_gets_its_provider_and_the_cpu_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    made = SimpleNamespace(get_available_providers=lambda: there)
    monkeypatch.setattr(sessions_onnxruntime, "runtime", lambda: made)
    assert providers_for(torch.device("cuda"), None) == tuple(there)
    assert providers_for(CPU, None) == ("CPUExecutionProvider",)
    with pytest.raises(ExportError, match="no usual provider for mps"):
        providers_for(torch.device("mps"), None)
    with pytest.raises(ExportError, match="has no TensorrtExecutionProvider, only CUDA"):
        providers_for(CPU, ["TensorrtExecutionProvider"])


def test_a_graph_that_is_no_graph_is_refused(exported: Path, tmp_path: Path) -> None:
    entry = Manifest.read(exported).component("unet")
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="can't load"):
        OnnxRuntimeEngine.open(tmp_path / "model.onnx", entry, CPU)
