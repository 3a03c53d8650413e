"""Pictures beside a comparison's row become parts of the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from bench_files import run_of
from PIL import Image

from sdaccel.benchmarks.errors import ResultsError
from sdaccel.benchmarks.quality_rows import QualityRow
from sdaccel.benchmarks.reporting.pictures import Comparison, comparison
from sdaccel.benchmarks.selection import machines

MEASURED = {"unit": "dB", "mean": 55.6, "low": 55.2, "high": 55.9, "worst": 54.4}


def compared(folder: Path, **more: Any) -> Comparison:
    values: dict[str, Any] = {
        "workload": "compare-tiny-fast",
        "rung": "fast",
        "kind": "quality",
        "effect": "lower precision",
        "unit": "picture",
        "settings": {"model": "tiny", "count": 2, "prompts": "held-out", "steps": 4},
        "measured": {"PSNR": MEASURED},
        "gate": {"gate": "lower precision", "passed": True},
    }
    run = run_of(folder, QualityRow(**{**values, **more}))
    return comparison(machines([run])[0].entries[0])


def embedded(data: str) -> Image.Image:
    head, _, content = data.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def strip(folder: Path, name: str, colour: str) -> None:
    (folder / "a-cpu-2-cores").mkdir(exist_ok=True)
    Image.new("RGB", (32, 16), colour).save(folder / "a-cpu-2-cores" / name, lossless=True)


def test_two_strips_become_pairs_with_their_captions(tmp_path: Path) -> None:
    strip(tmp_path, "x.first.webp", "red")
    strip(tmp_path, "x.second.webp", "blue")
    listed = {"first": "x.first.webp", "second": "x.second.webp", "width": 16, "height": 16}
    found = compared(tmp_path, pictures={**listed, "captions": ["#1 a ring", "#2 a star"]})
    assert [(pair.index, pair.caption) for pair in found.pairs] == [
        (0, "#1 a ring"),
        (1, "#2 a star"),
    ]
    assert embedded(found.first_strip).size == (32, 16)
    assert embedded(found.first_strip).convert("RGB").getpixel((3, 3))[0] > 250
    assert embedded(found.second_strip).convert("RGB").getpixel((3, 3))[2] > 250
    assert found.aspect == "16 / 16"


def test_a_contact_sheet_of_the_rows_name_is_embedded_and_shrunk(tmp_path: Path) -> None:
    (tmp_path / "a-cpu-2-cores").mkdir()
    sheet = tmp_path / "a-cpu-2-cores" / "2026-01-01-compare-tiny-fast.png"
    Image.new("RGB", (3200, 100), "green").save(sheet)
    found = compared(tmp_path)
    assert embedded(found.sheet).size == (1600, 50)
    assert found.pairs == ()


def test_without_pictures_the_figures_stay(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert (found.sheet, found.first_strip) == ("", "")
    assert ("PSNR", "55.6 dB (55.2 to 55.9), worst 54.4 dB") in found.figures
    assert found.verdict == "passed the gate “lower precision”"


def test_a_failed_gate_is_said_with_its_reason(tmp_path: Path) -> None:
    found = compared(tmp_path, status="wrong", reason="worst PSNR 12")
    assert not found.passed
    assert found.verdict == "FAILED the gate “lower precision”: worst PSNR 12"


def test_a_broken_picture_is_one_sentence_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "a-cpu-2-cores").mkdir()
    (tmp_path / "a-cpu-2-cores" / "2026-01-01-compare-tiny-fast.png").write_bytes(b"no picture")
    with pytest.raises(ResultsError, match=r"compare-tiny-fast\.png is no picture that can be"):
        compared(tmp_path)
