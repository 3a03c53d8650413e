"""sdaccel bench: the harness, and what shows, compares and reports its rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bench_files import COMMITTED, a_row, stock, written

from sdaccel.cli import exits

KERNELS = next(COMMITTED.glob("*/*-kernels.json"))


@pytest.fixture(autouse=True)
def small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdaccel.benchmarks.reporting.page._library", lambda: "/* library */")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the harness was called with; it ends with exit code 1."""
    calls: list[list[str]] = []

    def main(words: list[str]) -> int:
        calls.append(words)
        return 1

    monkeypatch.setattr("sdaccel.benchmarks.__main__.main", main)
    return calls


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], []),
        (["--quick", "--workload", "sd15-unet"], ["--quick", "--workload", "sd15-unet"]),
        (["run", "--help"], ["--help"]),
        (["coverage", "--output", "x"], ["coverage", "--output", "x"]),
    ],
)
def test_without_a_verb_of_its_own_the_harness_runs_with_its_exit_code(
    words: list[str], given: list[str], harness: list[list[str]], run: Any
) -> None:
    assert run("bench", *words).code == 1
    assert harness == [given]


def test_help_lists_the_verbs(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run("bench", "--help")
    said = capsys.readouterr().out
    assert left.value.code == 0
    for verb in ("run", "show", "diff", "report"):
        assert re.search(rf"^ +{verb} ", said, re.MULTILINE)


def test_show_prints_tables_of_every_kind(run: Any, tmp_path: Path) -> None:
    path = written(tmp_path, stock(), a_row(times=2.0))
    outcome = run("bench", "show", str(path), str(KERNELS))
    assert outcome.code == exits.OK
    assert "2.00x" in outcome.out
    assert "group_norm_silu" in outcome.out
    assert "| lossless | float32 |" in run("bench", "show", str(path), "--markdown").out
    (shown,) = run("bench", "show", str(path), "--json").json["results"]
    assert [row["rung"] for row in shown["rows"]] == ["stock-fp32", "lossless"]


def test_diff_of_the_same_rows_finds_nothing(run: Any, tmp_path: Path) -> None:
    path = str(written(tmp_path, stock(), a_row()))
    outcome = run("bench", "diff", path, path)
    assert outcome.code == exits.OK
    assert "nothing moved beyond noise" in outcome.out
    assert "same: 2" in outcome.out


def test_a_regression_has_an_exit_code_of_its_own_and_is_named(run: Any, tmp_path: Path) -> None:
    before = str(written(tmp_path / "a", stock(), a_row(times=2.0)))
    after = str(written(tmp_path / "b", stock(), a_row(times=2.0 / 1.05)))
    outcome = run("bench", "diff", before, after)
    assert outcome.code == exits.REGRESSED
    assert "slower" in outcome.out
    assert outcome.complaint.startswith(
        "sdaccel: 1 row got worse beyond noise; tiny-unet, lossless"
    )
    assert "is 0.95" in outcome.complaint
    assert run("bench", "diff", before, after, "--tolerance", "10").code == exits.OK
    assert run("bench", "diff", after, before).code == exits.OK


def test_a_regression_as_json_holds_every_change(run: Any, tmp_path: Path) -> None:
    before = str(written(tmp_path / "a", stock(), a_row()))
    broken = a_row(status="wrong", reason="Off.", seconds=[], baseline_seconds=[])
    after = str(written(tmp_path / "b", stock(), broken))
    outcome = run("bench", "diff", before, after, "--json")
    assert outcome.code == exits.REGRESSED
    assert outcome.json["error"]["type"] == "RegressionError"
    changes = {each["row"]: each for each in outcome.json["machines"][0]["changes"]}
    assert changes["tiny-unet, lossless, float32"]["note"] == "wrong: Off."
    assert changes["tiny-unet, stock-fp32, float32"]["verdict"] == "same"


def test_report_writes_a_page_and_says_where(run: Any, tmp_path: Path) -> None:
    written(tmp_path / "benchmarks" / "results", stock(), a_row())
    outcome = run("bench", "report", "--json")
    assert outcome.json == {
        "files": 1,
        "rows": 2,
        "page": str(tmp_path / "sdaccel-report.html"),
    }
    page = (tmp_path / "sdaccel-report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "tiny-unet" in page


def test_report_takes_files_a_name_and_a_price(run: Any, tmp_path: Path) -> None:
    path = str(written(tmp_path, stock(), a_row(times=2.0)))
    outcome = run("bench", "report", path, "-o", "page.html", "--price-per-hour", "3.6")
    assert outcome.code == exits.OK
    assert "10 for 1,000 pictures, the denoiser alone" in (tmp_path / "page.html").read_text()


def test_markdown_is_written_new_or_between_its_marks(run: Any, tmp_path: Path) -> None:
    path = str(written(tmp_path / "results", stock(), a_row()))
    assert run("bench", "report", path, "--markdown", "new.md").code == exits.OK
    assert "| `lossless` |" in (tmp_path / "new.md").read_text()
    assert not (tmp_path / "sdaccel-report.html").exists()
    marked = tmp_path / "README.md"
    marked.write_text("# Title\n<!-- rows: results tiny-unet -->\n<!-- end of rows -->\n")
    assert run("bench", "report", path, "--markdown", "README.md").code == exits.OK
    assert "| `lossless` |" in marked.read_text()
    assert marked.read_text().startswith("# Title\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("show", "gone.json"), "gone.json can't be read"),
        (("show", "broken.json"), "broken.json holds no readable results"),
        (("diff", "x", "y"), "Rows of different machines are never compared"),
        (("diff", "x", "empty"), "The folder empty holds no results"),
        (("diff", "x", "x", "--tolerance", "some"), "'some' is no amount"),
        (("report",), "There is no benchmarks/results here"),
        (("report", "broken.json"), "broken.json holds no readable results"),
        (("report", "x", "-o", "nowhere/page.html"), "'nowhere/page.html' can't be written"),
        (("report", "x", "--markdown", "notes.md"), "notes.md stays as it is."),
        (("report", "x", "--price-per-hour", "-1"), "'-1' is no amount"),
    ],
)
def test_bad_input_is_one_sentence(
    words: tuple[str, ...], sentence: str, run: Any, tmp_path: Path
) -> None:
    for name in ("x", "y"):
        written(tmp_path / name, stock(), a_row(), slug=f"{name}-2-cores")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text('{"schema": 1, "rows": [')
    (tmp_path / "notes.md").write_text("mine\n")
    before = sorted(tmp_path.rglob("*"))
    outcome = run("bench", *words)
    assert outcome.code == exits.BAD_INPUT
    assert sentence in outcome.complaint
    assert len(outcome.err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "notes.md").read_text() == "mine\n"


def test_a_report_over_two_machines_keeps_them_apart(run: Any, tmp_path: Path) -> None:
    for name in ("x", "y"):
        written(tmp_path / "all", stock(), a_row(), slug=f"{name}-2-cores")
    assert run("bench", "report", "all").code == exits.OK
    page = (tmp_path / "sdaccel-report.html").read_text()
    assert page.count('class="machine"') == 2
