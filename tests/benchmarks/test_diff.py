"""What moved between two runs: a planted slowdown is found, noise is not, machines stay apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_files import a_row, machine, run_of, stock

from sdaccel.benchmarks import diff
from sdaccel.benchmarks.errors import ResultsError
from sdaccel.benchmarks.rows import STATUSES, Row


def changes(tmp_path: Path, before: list[Row], after: list[Row], **more: Any) -> dict[str, Any]:
    first = run_of(tmp_path / "a", *before)
    second = run_of(tmp_path / "b", *after, **more)
    (found,) = diff.compare([first], [second])
    return {change.name.split(", ")[1]: change for change in found.changes}


def test_a_planted_slowdown_of_5_percent_is_a_regression(tmp_path: Path) -> None:
    found = changes(tmp_path, [a_row(times=2.0)], [a_row(times=2.0 / 1.05)])["lossless"]
    assert found.verdict == diff.SLOWER
    assert found.regressed
    assert found.moved.factor == pytest.approx(1 / 1.05, rel=0.01)
    assert found.moved.high < 1


def test_the_same_again_is_the_same(tmp_path: Path) -> None:
    found = changes(tmp_path, [a_row(), stock()], [a_row(), stock()])
    assert {change.verdict for change in found.values()} == {diff.SAME}


def test_a_gain_is_told_and_no_regression(tmp_path: Path) -> None:
    found = changes(tmp_path, [a_row(times=2.0)], [a_row(times=2.4)])["lossless"]
    assert (found.verdict, found.regressed) == (diff.FASTER, False)


def test_a_machine_that_is_slower_today_is_no_regression_of_a_rung(tmp_path: Path) -> None:
    slow = a_row()
    slow.seconds = [each * 1.5 for each in slow.seconds]
    slow.baseline_seconds = [each * 1.5 for each in slow.baseline_seconds]
    found = changes(tmp_path, [a_row()], [slow])["lossless"]
    assert found.of_speedup
    assert found.verdict == diff.SAME


def test_a_slower_stock_is_told_but_is_no_regression(tmp_path: Path) -> None:
    slow = stock()
    slow.seconds = [each * 1.5 for each in slow.seconds]
    found = changes(tmp_path, [stock()], [slow])["stock-fp32"]
    assert (found.verdict, found.regressed) == (diff.SLOWER, False)
    assert "not this package's" in found.note


def test_noise_hides_a_change_and_does_not_make_one(tmp_path: Path) -> None:
    wild = a_row(times=1.9)
    wild.seconds = [each * wide for each, wide in zip(wild.seconds, (0.6, 1.5) * 3, strict=True)]
    found = changes(tmp_path, [a_row()], [wild])["lossless"]
    assert (found.verdict, found.regressed) == (diff.SAME, False)
    assert "noisy" in found.note


def test_three_samples_a_side_are_too_few_to_tell(tmp_path: Path) -> None:
    few = {"seconds": [1.0] * 3, "baseline_seconds": [2.0] * 3}
    slow = {"seconds": [2.0] * 3, "baseline_seconds": [2.0] * 3}
    found = changes(tmp_path, [a_row(**few)], [a_row(**slow)])["lossless"]
    assert (found.verdict, found.regressed) == (diff.UNKNOWN, False)


@pytest.mark.parametrize("status", [each for each in STATUSES if each not in ("ok", "skipped")])
def test_a_rung_that_is_no_longer_ok_is_a_regression_with_its_reason(
    tmp_path: Path, status: str
) -> None:
    broken = a_row(status=status, reason="It is off.", seconds=[], baseline_seconds=[])
    found = changes(tmp_path, [a_row()], [broken])["lossless"]
    assert found.verdict == diff.BROKEN
    assert found.regressed
    assert found.note == f"{status}: It is off."


def test_a_rung_that_was_skipped_or_mended_is_no_regression(tmp_path: Path) -> None:
    skipped = a_row(status="skipped", reason="Not installed.", seconds=[], baseline_seconds=[])
    found = changes(tmp_path, [a_row()], [skipped])["lossless"]
    assert (found.verdict, found.regressed) == (diff.BROKEN, False)
    found = changes(tmp_path / "back", [skipped], [a_row()])["lossless"]
    assert (found.verdict, found.regressed) == (diff.MENDED, False)


def test_rows_of_one_side_alone_are_listed(tmp_path: Path) -> None:
    found = changes(tmp_path, [a_row(), a_row("eager")], [a_row(), a_row("fast")])
    assert found["eager"].verdict == diff.MISSING
    assert found["fast"].verdict == diff.ADDED
    assert not found["eager"].regressed


def test_other_settings_are_another_row(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="A and B have no row in common"):
        changes(tmp_path, [a_row()], [a_row(settings={"steps": 50})])


def test_different_machines_are_refused_in_one_sentence(tmp_path: Path) -> None:
    first = run_of(tmp_path, a_row())
    second = run_of(tmp_path, a_row(), slug="b-gpu-16-cores")
    with pytest.raises(ResultsError) as refused:
        diff.compare([first], [second])
    said = str(refused.value)
    assert "Rows of different machines are never compared" in said
    assert "a-cpu-2-cores, 2 threads" in said
    assert "b-gpu-16-cores, 2 threads" in said


def test_of_folders_with_several_machines_each_is_compared_with_itself(tmp_path: Path) -> None:
    first = [run_of(tmp_path / "a", a_row(times=2), slug=slug) for slug in ("x", "y")]
    second = [run_of(tmp_path / "b", a_row(times=3), slug="y")]
    second.append(run_of(tmp_path / "b", a_row(times=2), slug="z"))
    (found,) = diff.compare(first, second)
    assert found.machine == "y, 2 threads"


def test_a_machine_whose_ceilings_moved_is_doubted(tmp_path: Path) -> None:
    slower = machine(copy_ceiling=4e9)
    first, second = run_of(tmp_path / "a", a_row()), run_of(tmp_path / "b", a_row(), machine=slower)
    (found,) = diff.compare([first], [second])
    assert found.doubts == (
        "The machine's own copy ran at 0.40 times its former rate: it was disturbed, or is not "
        "the same machine.",
    )
