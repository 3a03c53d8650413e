"""The examples run as they stand, on a tiny model, and do what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

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
    run("text_to_image.py", tmp_path, monkeypatch, "a cat", "eager")
    assert "plan eager" in capsys.readouterr().out
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in ("stock", "restored")]
    assert pictures[0] == pictures[1]
    assert (tmp_path / "accelerated.png").is_file()


def test_drop_in_loads_accelerated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    run("drop_in.py", tmp_path, monkeypatch, str(tmp_path / "model"), "eager")
    assert "StableDiffusionPipeline, plan eager" in capsys.readouterr().out
    assert (tmp_path / "fox.png").is_file()


@pytest.mark.parametrize("name", ["text_to_image.py", "drop_in.py"])
def test_an_example_fits_on_a_screen(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 30
