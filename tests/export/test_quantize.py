"""Quantized exports: which layers are in fewer bits, how near they stay, what is left alone."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import sdaccel
from sdaccel.errors import ExportError
from sdaccel.export import int8, space
from sdaccel.export.manifest import Manifest
from sdaccel.export.quantize import Quantized, quantize, quantize_weights
from sdaccel.export.quantize_calibration import Range, to_leave_out
from sdaccel.export.quantize_graph import pack


def draw(pipe: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
    return pipe("abc", generator=generator, **call).images


@pytest.fixture(scope="module")
def static(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantized]:
    pipe, folder = tiny.stable_diffusion(), tmp_path_factory.mktemp("static") / "int8"
    return folder, quantize(exported, folder, pipe, lambda: draw(pipe), tolerance=0.05, probes=1)


@torch.no_grad()
def forward_distance(folder: Path, plan: str, precision: str) -> float:
    pipe = tiny.stable_diffusion()
    random = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, 8, 8, generator=random)
    call = (sample, torch.tensor(7), torch.randn(2, 16, 32, generator=random))
    truth = pipe.unet(*call).sample
    sdaccel.accelerate(pipe, plan, **{plan: {"folder": folder, "precision": precision}})
    return float((pipe.unet(*call).sample - truth).norm() / truth.norm())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_static_int8_is_near_in_each_runtime_and_not_equal(
    static: tuple[Path, Quantized], runtime: str
) -> None:
    pytest.importorskip(runtime)
    assert 1e-4 < forward_distance(static[0], runtime, "int8") < 0.1


def test_onnxruntime_fuses_every_layer_that_was_quantized(
    static: tuple[Path, Quantized], tmp_path: Path
) -> None:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(static[0] / "unet" / "model.onnx"), options)
    nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
    operators = Counter(each.op_type for each in nodes)
    assert operators["QLinearConv"] == static[1].done["Conv"]
    assert operators["MatMulIntegerToFloat"] == static[1].done["MatMul"]


def test_convolutions_and_linear_layers_are_in_int8_and_the_ends_are_not(
    static: tuple[Path, Quantized],
) -> None:
    folder, made = static
    assert made.done["Conv"] > 10
    assert made.done["MatMul"] > 20
    assert "Gemm" not in made.done
    assert not any("time_emb_proj" in each for each in made.sensitivities)
    assert {"conv_in", "conv_out"} <= set(made.left_out)
    assert "conv_in" not in made.sensitivities
    graph = (folder / "unet" / "model.onnx").read_bytes()
    assert graph.count(b"QuantizeLinear") > 60
    assert Manifest.read(folder).component("unet").precision == "int8"
    Manifest.read(folder).verify(folder)


def test_a_stricter_tolerance_leaves_more_layers_out(
    exported: Path, static: tuple[Path, Quantized], tmp_path: Path
) -> None:
    found = static[1].sensitivities
    assert all(value > 0 for value in found.values())
    assert len(to_leave_out(found, 0.001)) > len(to_leave_out(found, 0.05))


def test_the_most_sensitive_layers_are_left_out_until_the_rest_is_within_the_tolerance() -> None:
    found = {"a": 0.03, "b": 0.2, "c": 0.04}
    assert to_leave_out(found, 0.051) == {"b"}
    assert to_leave_out(found, 0.049) == {"b", "c"}
    assert to_leave_out(found, 1.0) == set()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-2.0, -1.0), (0.0, 0.0)])
def test_a_range_holds_its_ends_and_zero(low: float, high: float) -> None:
    found = Range.of(low, high)
    values = torch.tensor([low, high, 0.0])
    assert torch.allclose(found.rounded(values), values, atol=found.scale)
    assert found.rounded(torch.zeros(1)).item() == 0.0


@pytest.mark.parametrize(("bits", "most"), [(8, 0.01), (4, 0.15)])
def test_packed_weights_unpack_to_themselves(bits: int, most: float) -> None:
    values = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    codes, scales = pack(values, bits, 16)
    assert codes.shape == (3, 3, 16 * bits // 8)
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(3, 3, 16)
    half = 1 << (bits - 1)
    unpacked = (codes.astype(np.float32) - half) * scales.reshape(3, 3, 1)
    error = np.abs(unpacked.reshape(3, 48)[:, :40] - values).max()
    assert error <= most * np.abs(values).max()


def test_weights_in_fewer_bits_are_near_and_smaller(exported: Path, tmp_path: Path) -> None:
    distances, sizes = [], [(exported / "unet" / "model.onnx.data").stat().st_size]
    for bits in (8, 4):
        made = quantize_weights(exported, tmp_path / str(bits), bits=bits)
        assert made.done["MatMulNBits"] > 20
        distances.append(forward_distance(tmp_path / str(bits), "onnxruntime", f"int{bits}"))
        sizes.append((tmp_path / str(bits) / "unet" / "model.onnx.data").stat().st_size)
    assert 0 < distances[0] < 0.02
    assert distances[0] < distances[1] < 0.2
    assert sizes[0] > sizes[1] > sizes[2]


def test_what_can_not_be_quantized_is_refused_and_leaves_no_folder(
    exported: Path,
    static: tuple[Path, Quantized],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe, folder = tiny.stable_diffusion(), tmp_path / "new"
    with pytest.raises(ExportError, match="is in int8: quantize an export in fp32"):
        quantize(static[0], folder, pipe, lambda: draw(pipe))
    with pytest.raises(ExportError, match="Nothing was drawn"):
        quantize(exported, folder, pipe, lambda: None)
    with pytest.raises(ExportError, match="no denoiser of this FluxPipeline"):
        quantize(exported, folder, tiny.flux(), lambda: None)
    with pytest.raises(ExportError, match="8 or 4 bits"):
        quantize_weights(exported, folder, bits=3)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="is not empty"):
        quantize_weights(exported, static[0])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ExportError, match=r"onnx is not installed: pip install sdaccel\[onnx\]"):
        quantize_weights(exported, folder)
    assert not any(tmp_path.iterdir())


@pytest.fixture
def whole(exported: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where `export_int8` asks for graphs in fp32, and gets those that are there already."""
    asked: list[Path] = []

    def export(pipe: Any, folder: Path, **options: Any) -> None:
        asked.append(folder)
        shutil.copytree(exported, folder)

    monkeypatch.setattr(int8, "export", export)
    return asked


def test_a_pipeline_is_exported_in_int8_in_one_go_and_nothing_else_stays(
    whole: list[Path], exported: Path, static: tuple[Path, Quantized], tmp_path: Path
) -> None:
    pipe, folder = tiny.stable_diffusion(), tmp_path / "new" / "int8"
    made = int8.export_int8(pipe, folder, lambda: draw(pipe), tolerance=None, outputs=False)
    assert [each.name for each in folder.parent.iterdir()] == ["int8"]
    assert whole[0].parent.parent == folder.parent
    kept = {each.relative_to(exported) for each in exported.rglob("*") if each.is_file()}
    assert {each.relative_to(folder) for each in folder.rglob("*") if each.is_file()} == kept
    made.manifest.verify(folder)
    assert made.manifest.component("unet").precision == "int8"
    assert made.done["Conv"] >= static[1].done["Conv"]


def test_too_little_room_is_found_before_anything_is_exported_or_drawn(
    whole: list[Path], exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(megabytes: float) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=int(megabytes * 1e6))
        monkeypatch.setattr("sdaccel.export.space.shutil.disk_usage", lambda _: usage)

    pipe, folder = tiny.stable_diffusion(), tmp_path / "int8"
    undrawn: list[str] = []
    free(10)
    with pytest.raises(ExportError, match=r"takes about 0\.0 GB.*room for 0\.0 GB: make room"):
        quantize(exported, folder, pipe, lambda: undrawn.append("drawn"))
    with pytest.raises(ExportError, match="make room"):
        quantize_weights(exported, folder)
    rest = sum(space.bytes_of(each, torch.float32) for each in (pipe.vae, pipe.text_encoder))
    only = space.room_for([(pipe.unet, torch.float32)]) + rest
    free(only / 1e6 + 1)  # enough for the export in fp32, and not for the graph in int8 beside it
    with pytest.raises(ExportError, match="make room"):
        int8.export_int8(pipe, folder, lambda: undrawn.append("drawn"), components=["unet"])
    assert not any((undrawn, whole, *tmp_path.iterdir()))


def test_what_is_wrong_with_an_int8_export_is_told_before_it_begins(
    whole: list[Path], tmp_path: Path
) -> None:
    pipe = tiny.stable_diffusion()
    with pytest.raises(ExportError, match="int8 is for: export unet as well"):
        int8.export_int8(pipe, tmp_path / "int8", lambda: None, components=["vae_decoder"])
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ExportError, match="is not empty"):
        int8.export_int8(pipe, tmp_path, lambda: None)
    sdaccel.accelerate(pipe, "eager")
    with pytest.raises(ExportError, match=r"is accelerated \(plan eager\)"):
        int8.export_int8(pipe, tmp_path / "int8", lambda: None)
    assert not whole


def test_a_tampered_export_is_not_quantized(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    found = json.loads((copy / "manifest.json").read_text())
    sums = found["components"]["unet"]["checksums"]
    found["components"]["unet"]["checksums"] = dict.fromkeys(sums, "0" * 64)
    (copy / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(ExportError, match="its checksum is another"):
        quantize_weights(copy, tmp_path / "new")
