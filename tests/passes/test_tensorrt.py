"""TensorRT in the place of modules: the same pictures, engines for the sizes, and the way back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
import tiny
import torch

import sdaccel
from sdaccel.errors import InputError, PassError, PlanError
from sdaccel.passes.tensorrt import TensorRt
from sdaccel.pipelines import StableDiffusionPipeline

SIZES = ("16x16", "32x24")


def draw(pipe: Any, width: int = 16, height: int = 16, prompt: Any = "abc") -> Any:
    generator = torch.Generator().manual_seed(1)
    call = {"num_inference_steps": 2, "width": width, "height": height, "output_type": "np"}
    return pipe(prompt, generator=generator, **call).images


def distance(found: Any, truth: Any) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A TensorRT that computes on the CPU, and a cache of its own."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "cache"))
    return fake_tensorrt.install(monkeypatch)


@pytest.fixture
def options(package: Any, exported: Path) -> dict[str, Any]:
    return {"folder": exported, "sizes": SIZES}


def test_pictures_of_the_sizes_are_the_same_and_restore_is_bit_for_bit(
    options: dict[str, Any],
) -> None:
    pipe = tiny.stable_diffusion()
    before = {key: dict(value.__dict__) for key, value in pipe.unet.named_modules()}
    truths = {size: draw(pipe, *size) for size in ((16, 16), (32, 24))}
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={**options, "parts": "all"})
    for size, truth in truths.items():
        assert distance(draw(pipe, *size), truth) <= 1e-4
    record = sdaccel.report(pipe)["tensorrt"]
    assert record.effect == "exact"
    assert record.ran["unet by the session"] == 4
    assert not any("by torch" in each for each in record.ran)
    assert np.array_equal(draw(sdaccel.restore(pipe)), truths[16, 16])
    assert {key: dict(value.__dict__) for key, value in pipe.unet.named_modules()} == before


def test_another_size_is_torch_s_and_the_report_says_which_are_allowed(
    options: dict[str, Any],
) -> None:
    pipe = tiny.stable_diffusion()
    truth = draw(pipe, 24, 24)
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={**options, "parts": "all"})
    assert distance(draw(pipe, 24, 24), truth) <= 1e-6
    record = sdaccel.report(pipe)["tensorrt"]
    assert record.ran["unet by torch"] == 2
    assert record.ran["vae_decoder by torch"] == 1
    assert any(
        note.startswith("unet by torch: the engine is for 16x16, 32x24, and 'sample' is 2x4x12x12")
        for note in record.notes
    )


def test_more_pictures_at_once_want_a_batch(options: dict[str, Any]) -> None:
    pipe = tiny.stable_diffusion()
    two = ["abc", "de"]
    truth = draw(pipe, prompt=two)
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={**options, "batch": 2})
    assert distance(draw(pipe, prompt=two), truth) <= 1e-4
    record = sdaccel.report(pipe)["tensorrt"]
    assert (record.ran["unet by the session"], record.ran["unet by torch"]) == (2, 0)


def test_time_and_memory_are_in_the_report_and_an_engine_is_built_once(
    options: dict[str, Any],
) -> None:
    notes = []
    for how in ("built", "loaded"):
        pipe = tiny.stable_diffusion()
        sdaccel.accelerate(pipe, "tensorrt", tensorrt=options)
        record = sdaccel.report(pipe)["tensorrt"]
        assert record.seconds[how] > 0
        notes += record.notes
    engine = "an engine of 4 MB and 5 MB of activations"
    assert notes[0] == f"unet: {engine}, built, for 16x16, 32x24"
    assert notes[1] == f"unet: {engine}, loaded, for 16x16, 32x24"


def test_other_weights_refit_the_engine(options: dict[str, Any], tmp_path: Path) -> None:
    import exports

    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={**options, "parts": "all"})
    sdaccel.restore(pipe)
    with torch.no_grad():
        for each in pipe.text_encoder.parameters():
            each.mul_(1.5)  # those that are equal, of which a graph has one, stay equal
    other = exports.by_hand(pipe, tmp_path / "other", only="text_encoder")
    truth = draw(pipe)
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={**options, "parts": "all", "folder": other})
    record = sdaccel.report(pipe)["tensorrt"]
    assert record.seconds["refitted"] > 0
    assert "built" not in record.seconds
    assert distance(draw(pipe), truth) <= 1e-4
    assert record.ran["text_encoder by the session"] == 2


def test_a_folder_alone_makes_a_pipe_that_is_told_which_calls_it_takes(
    options: dict[str, Any], exported: Path
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(
        str(exported), plan=sdaccel.Plan.of("tensorrt").override(tensorrt={"sizes": SIZES})
    )
    pipe.set_progress_bar_config(disable=True)
    assert distance(draw(pipe), draw(tiny.stable_diffusion())) <= 1e-4
    with pytest.raises(InputError, match="for 16x16, 32x24, and 'sample' is 2x4x12x12"):
        draw(pipe, 24, 24)


def test_graphs_are_exported_as_the_weights_are(
    options: dict[str, Any], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    made = []

    def export(pipe: Any, place: Path, *, components: Any, precision: str, rest: bool) -> None:
        assert not rest
        made.append((components, precision))
        shutil.copytree(exported, place)

    monkeypatch.setattr("sdaccel.export.pipeline.export", export)
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={"sizes": SIZES})
    sdaccel.restore(pipe)
    with pytest.raises(PassError, match="exported in fp32, and bf16 is asked for"):
        sdaccel.accelerate(pipe, "tensorrt", tensorrt={"sizes": SIZES, "precision": "bf16"})
    assert made == [(["unet"], None), (["unet"], "bf16")]


def test_a_tampered_or_another_precision_s_graph_is_refused(
    options: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    pipe, copy = tiny.stable_diffusion(), tmp_path / "copy"
    shutil.copytree(options["folder"], copy)
    graph = copy / "unet" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(PassError, match="truncated or was changed"):
        sdaccel.accelerate(pipe, "tensorrt", tensorrt={**options, "folder": copy})
    with pytest.raises(PassError, match="exported in fp32, and fp16 is asked"):
        sdaccel.accelerate(pipe, "tensorrt", tensorrt={**options, "precision": "fp16"})
    pipe.unet.to(torch.bfloat16)
    with pytest.raises(PassError, match="exported in fp32, and bf16 is asked for or is what"):
        sdaccel.accelerate(pipe, "tensorrt", tensorrt=options)
    assert "forward" not in pipe.unet.__dict__


def test_a_build_that_fails_leaves_the_pipe_as_it_was(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny.stable_diffusion()
    truth = draw(pipe)
    monkeypatch.setattr(fake_tensorrt.Builder, "build_serialized_network", lambda *_: None)
    with pytest.raises(PassError, match="TensorRT can't build an engine"):
        sdaccel.accelerate(pipe, "tensorrt", tensorrt=options)
    assert "forward" not in pipe.unet.__dict__
    assert np.array_equal(draw(pipe), truth)


def test_the_cache_has_a_limit(options: dict[str, Any], tmp_path: Path) -> None:
    for size in SIZES:
        pipe = tiny.stable_diffusion()
        limited = {**options, "sizes": [size], "cache_gb": 0.005}
        sdaccel.accelerate(pipe, "tensorrt", tensorrt=limited)
    kept = fake_tensorrt.names_of(tmp_path / "cache" / "engines")
    assert len(kept) == 1


def test_tensorrt_11_3_builds_no_engines_to_refit(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, refit in (("11.3.0.99", False), ("11.4.0.106", True)):
        package = fake_tensorrt.install(monkeypatch, version)
        sdaccel.accelerate(tiny.stable_diffusion(), "tensorrt", tensorrt=options)
        assert (("set_flag", "REFIT") in package.calls) is refit


@pytest.mark.parametrize("route", ["onnx", "torch"])
def test_without_a_gpu_it_is_refused_in_a_sentence(
    exported: Path, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={"folder": exported, "route": route})
    refused = sdaccel.report(pipe)["tensorrt"].refused["pipe"]
    assert refused.startswith("TensorRT needs a CUDA GPU, and torch finds none here: take the plan")
    with pytest.raises(PassError, match="finds none here"):
        sdaccel.accelerate(
            sdaccel.restore(pipe), "tensorrt", strict=True, tensorrt={"folder": exported}
        )


def test_without_the_extra_it_is_refused_in_a_sentence(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for route, name in (("onnx", "tensorrt"), ("torch", "torch_tensorrt")):
        monkeypatch.setitem(sys.modules, name, None)
        pipe = tiny.stable_diffusion()
        sdaccel.accelerate(pipe, "tensorrt", tensorrt={**options, "route": route})
        extra = name.replace("_", "-")
        refused = sdaccel.report(pipe)["tensorrt"].refused["pipe"]
        assert f"pip install sdaccel[{extra}]" in refused


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"precision": "int8"}, "precision is one of"),
        ({"route": "c"}, "route is 'onnx' or 'torch'"),
        ({"route": "torch", "parts": "all"}, "for the denoiser alone"),
        ({"sizes": ["wide"]}, "a size is WIDTHxHEIGHT"),
        ({"batch": 0}, "batch and tokens are at least 1"),
        ({"tokens": 0}, "batch and tokens are at least 1"),
        ({"level": 6}, "level is from 0 to 5"),
        ({"cache_gb": -1.0}, "cache_gb not negative"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        sdaccel.accelerate(tiny.stable_diffusion(), "tensorrt", tensorrt=wrong)


def test_it_excludes_the_other_runtimes_and_is_exact_unless_bits_are_asked_away() -> None:
    for other in ("onnxruntime", "openvino"):
        with pytest.raises(PlanError, match="exclude each other"):
            sdaccel.Plan.of(f"tensorrt+{other}")
    assert str(TensorRt().effect) == "exact"
    assert str(TensorRt(precision="bf16").effect) == "lower precision"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_a_gpu_engines_draw_the_same_pictures(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt")
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path))
    pipe = tiny.stable_diffusion().to("cuda", dtype)
    truth = draw(pipe)
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={"sizes": SIZES})
    assert distance(draw(pipe), truth) <= (1e-3 if dtype == torch.float32 else 5e-2)
    record = sdaccel.report(pipe)["tensorrt"]
    assert record.ran["unet by the session"] == 2
    assert np.array_equal(draw(sdaccel.restore(pipe)), truth)


@pytest.mark.gpu
def test_on_a_gpu_other_weights_are_refitted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt")
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path))
    pipe = tiny.stable_diffusion().to("cuda")
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={"sizes": SIZES})
    sdaccel.restore(pipe)
    with torch.no_grad():
        for each in pipe.unet.parameters():
            each.mul_(1.01)
    truth = draw(pipe)
    sdaccel.accelerate(pipe, "tensorrt", tensorrt={"sizes": SIZES})
    assert "refitted" in sdaccel.report(pipe)["tensorrt"].seconds
    assert distance(draw(pipe), truth) <= 1e-3
