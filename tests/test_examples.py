"""The examples run as they stand, on a tiny model, and do what they say."""

from __future__ import annotations

import runpy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_video

from sdaccel import shapes

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *words])
    return runpy.run_path(str(EXAMPLES / name))


def test_text_to_image_draws_stock_accelerated_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shapes, "load", lambda _: tiny.stable_diffusion(), raising=False)
    defaults = {"num_inference_steps": 2, "guidance_scale": 2.0}
    monkeypatch.setattr(shapes, "call_defaults", lambda _: defaults, raising=False)
    run("text_to_image.py", tmp_path, monkeypatch, "a cat", "eager")
    assert "plan eager" in capsys.readouterr().out
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in ("stock", "restored")]
    assert pictures[0] == pictures[1]
    assert (tmp_path / "accelerated.png").is_file()


def test_text_to_video_writes_what_stock_and_the_accelerated_pipe_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    defaults = {"num_inference_steps": 1, "num_frames": 5, "width": 16, "height": 16}
    monkeypatch.setattr(shapes, "load", lambda _: tiny_video.wan(), raising=False)
    monkeypatch.setattr(shapes, "call_defaults", lambda _: defaults, raising=False)
    run("text_to_video.py", tmp_path, monkeypatch, "a cat", "eager")
    assert "plan eager" in capsys.readouterr().out
    stock, accelerated = (
        tiny_video.read_mp4(tmp_path / f"{name}.mp4") for name in ("stock", "accelerated")
    )
    assert stock.frames.shape == (5, 16, 16, 3)
    assert stock.fps == 16
    assert abs(stock.frames.astype(int) - accelerated.frames).mean() < 1


def test_drop_in_loads_accelerated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    run("drop_in.py", tmp_path, monkeypatch, str(tmp_path / "model"), "eager")
    assert "StableDiffusionPipeline, plan eager" in capsys.readouterr().out
    assert (tmp_path / "fox.png").is_file()


@pytest.mark.filterwarnings("ignore")
def test_export_onnx_writes_graphs_and_runs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="exporting needs sdaccel[onnx]")
    import sdaccel.export

    only = partial(sdaccel.export.export, components=["text_encoder"])
    monkeypatch.setattr(sdaccel.export, "export", only)
    monkeypatch.setattr(shapes, "load", lambda _: tiny.stable_diffusion(), raising=False)
    run("export_onnx.py", tmp_path, monkeypatch)
    told = capsys.readouterr().out
    assert "text_encoder takes input_ids ['batch', 'tokens']" in told
    assert "embeddings (1, 16, 32)" in told
    assert (tmp_path / "shapes-onnx" / "manifest.json").is_file()


@pytest.mark.parametrize(
    "name", ["text_to_image.py", "text_to_video.py", "drop_in.py", "export_onnx.py"]
)
def test_an_example_fits_on_a_screen(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 30
