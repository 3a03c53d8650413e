"""Tables for a README: written from rows alone, where its marks say."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_files import ROOT, a_row, run_of, stock, written

from sdaccel.benchmarks.errors import ResultsError
from sdaccel.benchmarks.reader import read_all
from sdaccel.benchmarks.reporting.readme import markdown, rewritten

MARKS = "before\n<!-- rows: results/a-cpu-2-cores tiny-unet -->\nold\n<!-- end of rows -->\nafter\n"


def test_the_readmes_sections_are_what_the_committed_rows_give() -> None:
    text = (ROOT / "README.md").read_text()
    if "<!-- rows:" not in text:
        pytest.skip("README.md has no section that is written from rows")
    assert rewritten(text, ROOT) == text, "run: sdaccel bench report --markdown README.md"


def test_a_section_is_written_anew_and_nothing_else(tmp_path: Path) -> None:
    written(tmp_path / "results", stock(), a_row(times=2.0))
    text = rewritten(MARKS, tmp_path)
    assert text.startswith(
        "before\n<!-- rows: results/a-cpu-2-cores tiny-unet -->\n\n| tiny-unet, one"
    )
    assert "| `lossless` | fp32 | 1.00 s | 2.00x | 50% | 2.0e-07 | 1.07 GB | 3.00 s |" in text
    assert text.endswith("medians.\n\n<!-- end of rows -->\nafter\n")
    assert "old" not in text
    assert rewritten(text, tmp_path) == text


def test_each_section_has_its_own_workloads(tmp_path: Path) -> None:
    written(tmp_path / "results", stock(), a_row())
    written(tmp_path / "results", stock(workload="vae"), a_row(workload="vae"), date="2026-02-01")
    text = rewritten(MARKS + MARKS.replace("tiny-unet", "vae"), tmp_path)
    first, second = text.split("after\n")[:2]
    assert "| tiny-unet, one forward |" in first
    assert "vae" not in first
    assert "| vae, one forward |" in second


def test_what_is_scaled_down_is_shown_where_there_is_nothing_else(tmp_path: Path) -> None:
    written(tmp_path / "results", stock(), stock(quick=True), stock(workload="vae", quick=True))
    for names in ((), ("tiny-unet", "vae")):
        table = markdown(read_all([tmp_path / "results"]), names)
        assert table.count("| tiny-unet, one forward") == 1
        assert "| vae, one forward (scaled down)" in table


def test_rungs_that_failed_stay_and_noise_is_marked(tmp_path: Path) -> None:
    failed = a_row("fast", status="failed", reason="A | B" * 40, seconds=[], baseline_seconds=[])
    wild = a_row("wild", seconds=[1.0, 2.0, 1.0, 2.0])
    table = markdown([run_of(tmp_path, stock(), wild, failed)])
    (line,) = [line for line in table.splitlines() if "`fast`" in line]
    assert "failed: A \\| BA" in line
    assert line.replace("\\|", "").count("|") == table.splitlines()[0].count("|")
    assert "1.50 s !" in table
    assert "“!”: noisy." in table


def test_a_price_adds_a_column(tmp_path: Path) -> None:
    table = markdown([run_of(tmp_path, stock(), a_row(times=2.0))], per_hour=3.6)
    assert "cost at 3.6 an hour" in table
    assert "10 for 1,000 pictures, the denoiser alone" in table


def test_machines_have_tables_of_their_own(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, stock(), a_row(), slug=slug) for slug in ("x-2-cores", "y-2-cores")]
    assert markdown(runs).count("| tiny-unet, one forward |") == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no marks", "It has no section for rows"),
        ("<!-- rows: results -->\n", "don't pair"),
        ("<!-- rows: results -->\n<!-- end of rows -->\n<!-- end of rows -->", "don't pair"),
        ("<!-- rows: nowhere -->\n<!-- end of rows -->", "nowhere"),
        (MARKS.replace("tiny-unet", "sdxl"), "There are no rows of sdxl"),
    ],
)
def test_bad_marks_are_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    written(tmp_path / "results", stock(), a_row())
    with pytest.raises(ResultsError, match=sentence):
        rewritten(text, tmp_path)
