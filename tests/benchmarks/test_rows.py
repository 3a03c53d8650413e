"""Rows and files of results: what follows from the samples, and the way to JSON and back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sdaccel.benchmarks import tables
from sdaccel.benchmarks.errors import ResultsError
from sdaccel.benchmarks.rows import Results, Row


def a_row() -> Row:
    return Row(
        workload="tiny",
        rung="lossless",
        kind="plan",
        effect="exact",
        unit="picture",
        error=2e-7,
        error_limit=1e-5,
        seconds=[1.0, 1.02, 0.98, 1.0],
        baseline_seconds=[2.0, 2.0, 2.02, 1.98],
        setup_seconds=3.0,
        flops=5e9,
        matmul_ceiling=1e10,
        peak_memory=2**30,
        quality={"psnr": 90.0},
        passes={"compile": "applied"},
        settings={"steps": 2},
        notes=["a note"],
    )


def results_of(*rows: Row) -> Results:
    machine = {
        "name": "A CPU",
        "cores": 2,
        "threads": 2,
        "matmul_ceiling": 1e11,
        "copy_ceiling": 1e10,
    }
    return Results(
        "tiny", "2026-01-01", "make bench", machine, {"torch": "2.13"}, "abc", list(rows)
    )


def test_a_row_tells_what_follows_from_its_samples() -> None:
    row = a_row()
    assert row.speedup == pytest.approx(2.0)
    assert row.matmul_share == pytest.approx(0.5)
    assert row.pays_after == pytest.approx(3.0)
    assert not row.noisy


def test_the_interval_of_a_speed_up_is_that_of_the_rounds_ratios() -> None:
    row = a_row()
    row.seconds = [1.0, 1.02, 0.98, 1.0, 1.0, 1.0]
    row.baseline_seconds = [2.0, 2.2, 1.9, 2.1, 2.0, 2.3]
    assert row.per_second == 1.0
    assert row.speedup_low == pytest.approx(1.9 / 0.98), "with six rounds the smallest ratio"
    assert row.speedup_high == pytest.approx(2.3), "and the largest"


@pytest.mark.parametrize("stock", [[2.0, 2.2, 1.9, 2.1, 2.0], [2.0, 2.2, 1.9, 2.1], []])
def test_fewer_than_six_rounds_have_no_interval(stock: list[float]) -> None:
    row = a_row()
    row.seconds, row.baseline_seconds = [1.0] * 5, stock
    assert row.speedup_low is None
    assert row.speedup_high is None


def test_a_row_during_which_the_machine_drifted_is_flagged() -> None:
    row = a_row()
    row.canary_seconds = [0.100, 0.105, 0.101]
    assert row.drift == pytest.approx(0.05)
    assert not row.noisy
    row.canary_seconds = [0.100, 0.115]
    assert row.noisy


def test_a_row_that_the_host_disturbed_is_flagged() -> None:
    row = a_row()
    row.stolen = 0.01
    assert not row.noisy
    row.stolen = 0.05
    assert row.noisy


def test_noise_in_stock_beside_it_flags_a_row_too() -> None:
    row = a_row()
    row.baseline_seconds = [1.0, 1.0, 2.0, 2.0]
    assert row.noisy


def test_a_set_up_that_never_pays_is_none_in_json_and_never_in_the_table() -> None:
    row = a_row()
    row.baseline_seconds = [0.5] * 4
    assert json.loads(json.dumps(row.to_dict()))["pays_after"] is None
    assert "never" in tables.cells(row)


def test_results_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "machine" / "run.json"
    before = results_of(a_row())
    before.write(path)
    assert Results.read(path) == before
    assert [each.name for each in path.parent.iterdir()] == ["run.json"]


def test_the_file_holds_every_figure_that_the_table_shows(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    results_of(a_row()).write(path)
    row = json.loads(path.read_text())["rows"][0]
    assert row["median"] == 1.0
    assert row["interquartile_range"] == pytest.approx(0.01)
    assert row["noisy"] is False
    assert row["speedup"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "rows": [{"rung": "x"}]}'],
)
def test_a_file_without_results_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=r"broken\.json"):
        Results.read(path)


def test_a_missing_file_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"gone\.json can't be read"):
        Results.read(tmp_path / "gone.json")


def test_markdown_keeps_the_rungs_that_were_not_timed_with_their_reason() -> None:
    skipped = Row("tiny", "openvino", "peer", "", "picture", status="skipped", reason="Not | here.")
    text = tables.markdown(results_of(a_row(), skipped))
    lines = text.splitlines()
    assert lines[2].startswith("| lossless | float32 | 1.00 s |")
    assert "2.00x" in lines[2]
    assert "skipped: Not \\| here." in lines[3]
    assert {line.replace("\\|", "").count("|") for line in lines[:4]} == {len(tables.COLUMNS) + 1}
    assert "float32 matmul 0.10 TFLOP/s" in text


def shown(*rows: Row) -> list[str]:
    """The lines of the terminal's table."""
    screen = io.StringIO()
    Console(file=screen, width=80).print(tables.table(results_of(*rows)))
    return screen.getvalue().splitlines()


def test_the_terminals_table_keeps_a_plans_options() -> None:
    row = a_row()
    row.rung, row.quality = "eager+guidance[every=2]", {}
    lines = shown(row)
    assert "eager+guidance[every=2]" in "".join(line.split()[0] for line in lines if line)


def test_the_terminals_table_fits_80_columns_and_lists_what_was_not_timed() -> None:
    skipped = Row("tiny", "openvino", "peer", "", "picture", status="skipped", reason="Not here.")
    row = a_row()
    row.rung = "torch-compile-freezing-malloc"
    row.setup_seconds = 150.8
    lines = shown(row, skipped)
    (figures,) = [line for line in lines if "2.00x" in line]
    for text in ("1.00 s", "1%", "2.0e-07", "50%", "151 s", "1.00 G"):
        assert text in figures
    assert "openvino: skipped: Not here." in lines
