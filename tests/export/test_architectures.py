"""Exports of the embedded models' architectures draw what their modules do, and are taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
import tiny
import tiny_video
import torch

pytest.importorskip("onnx", reason="exporting needs sdaccel[onnx]")
pytest.importorskip("onnxscript", reason="exporting needs sdaccel[onnx]")
pytest.importorskip("onnxruntime", reason="exporting needs sdaccel[onnx]")

import sdaccel
from sdaccel.export import Manifest, export
from sdaccel.export.capture import draw
from sdaccel.export.examples import example_of
from sdaccel.export.forms import form_of
from sdaccel.export.parity import feeds, sizes

pytestmark = pytest.mark.filterwarnings("ignore")
"""What torch, onnxscript and ONNX Runtime warn of is theirs."""


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux") / "onnx"
    export(tiny.flux(), folder, components=["transformer"])
    return folder


def psnr(found: Any, truth: Any) -> float:
    """In dB, of values from 0 to 1."""
    return float(-10 * np.log10(np.mean((found - truth) ** 2) + 1e-20))


def by_session(folder: Path) -> dict[str, Any]:
    return {"onnxruntime": {"folder": folder}}


def test_flux_with_true_guidance_draws_by_the_session_and_is_taken_back(flux: Path) -> None:
    pipe = tiny.flux()
    changes = {"height": 32, "width": 24}
    truth, larger = tiny.draw_flux(pipe), tiny.draw_flux(pipe, **changes)
    with sdaccel.accelerated(pipe, "onnxruntime", strict=True, **by_session(flux)):
        assert psnr(tiny.draw_flux(pipe), truth) > 90
        assert psnr(tiny.draw_flux(pipe, **changes), larger) > 90
        ran = sdaccel.report(pipe)["onnxruntime"].ran
    assert dict(ran) == {"transformer by the session": 8}
    assert np.array_equal(tiny.draw_flux(pipe), truth)


def test_flux_s_own_calls_fit_the_engine_that_is_built_for_their_size(
    flux: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path))
    fake_tensorrt.install(monkeypatch)
    pipe = tiny.flux()
    truth = tiny.draw_flux(pipe, height=32, width=24)
    options = {"folder": flux, "sizes": ["24x32"]}
    with sdaccel.accelerated(pipe, "tensorrt", strict=True, tensorrt=options):
        assert psnr(tiny.draw_flux(pipe, height=32, width=24), truth) > 90
        ran = sdaccel.report(pipe)["tensorrt"].ran
    assert dict(ran) == {"transformer by the session": 4}


def test_wan_draws_clips_by_the_session_and_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny_video.wan()
    truth, longer = tiny_video.draw(pipe), tiny_video.draw(pipe, num_frames=7)
    export(pipe, tmp_path / "onnx", components=["transformer"])
    with sdaccel.accelerated(pipe, "onnxruntime", strict=True, **by_session(tmp_path / "onnx")):
        for clip, frames in ((truth, 5), (longer, 7)):
            drawn = tiny_video.draw(pipe, num_frames=frames)
            assert int(np.abs(drawn.astype(int) - clip.astype(int)).max()) <= 1
        ran = sdaccel.report(pipe)["onnxruntime"].ran
    assert dict(ran) == {"transformer by the session": 4}
    whole = {"onnxruntime": {"folder": tmp_path / "onnx", "parts": "all"}}
    with sdaccel.accelerated(pipe, "onnxruntime", **whole):
        refused = sdaccel.report(pipe)["onnxruntime"].refused
    assert refused == {"vae": "its halves keep frames between calls"}
    assert np.array_equal(tiny_video.draw(pipe), truth)
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "cache"))
    fake_tensorrt.install(monkeypatch)
    engines = {"folder": tmp_path / "onnx", "sizes": ["16x16x5", "16x16x7"]}
    with sdaccel.accelerated(pipe, "tensorrt", strict=True, tensorrt=engines):
        tiny_video.draw(pipe, num_frames=5)
        tiny_video.draw(pipe, num_frames=7)
        ran = sdaccel.report(pipe)["tensorrt"].ran
    assert dict(ran) == {"transformer by the session": 4}


@torch.no_grad()
def test_half_precision_is_as_near_to_single_as_half_precision_allows(tmp_path: Path) -> None:
    import onnxruntime

    pipe = tiny.flux()
    form = form_of("transformer", pipe.transformer)
    example = example_of("transformer", pipe.transformer)
    assert example is not None
    export(pipe, tmp_path / "onnx", components=["transformer"], precision="fp16")
    entry = Manifest.read(tmp_path / "onnx").component("transformer")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "onnx" / entry.file), providers=["CPUExecutionProvider"]
    )
    for size in sizes(example):
        arguments = draw(form, example, size)
        truth = form.stock(arguments)["sample"]
        (found,) = session.run(None, feeds(arguments, entry.inputs))
        assert found.dtype == np.float16
        error = float((torch.from_numpy(found).float() - truth).norm() / truth.norm())
        assert 1e-5 < error < 3e-3


def test_a_step_cache_beside_a_session_refuses_and_the_picture_is_the_sessions(
    flux: Path,
) -> None:
    pipe = tiny.flux()
    truth = tiny.draw_flux(pipe)
    asked = {**by_session(flux), "step_cache": {"fewest_steps": 1, "interval": 2}}
    sdaccel.accelerate(pipe, "onnxruntime", **asked)
    assert psnr(tiny.draw_flux(pipe), truth) > 90
    record = sdaccel.report(pipe)["step_cache"]
    assert record.refused == {"transformer": "a session computes it (pass onnxruntime)"}
    sdaccel.restore(pipe)
    with pytest.raises(sdaccel.SdaccelError, match="a session computes it"):
        sdaccel.accelerate(pipe, "onnxruntime", strict=True, **asked)
    assert np.array_equal(tiny.draw_flux(pipe), truth)


def test_steps_without_the_denoiser_leave_out_the_session_as_well(flux: Path) -> None:
    pipe, steps = tiny.flux(), {"num_inference_steps": 6}
    cache = {"step_cache": {"skip": "whole", "fewest_steps": 1, "interval": 2}}
    with sdaccel.accelerated(pipe, "none", **cache):
        truth = tiny.draw_flux(pipe, **steps)
    stock = tiny.draw_flux(pipe, **steps)
    with sdaccel.accelerated(pipe, "onnxruntime", strict=True, **by_session(flux), **cache):
        assert psnr(tiny.draw_flux(pipe, **steps), truth) > 90
        ran = sdaccel.report(pipe)["onnxruntime"].ran["transformer by the session"]
    assert 4 <= ran < 12
    assert np.array_equal(tiny.draw_flux(pipe, **steps), stock)
    assert psnr(truth, stock) < 90
