"""The newest row of everything, each machine apart."""

from __future__ import annotations

from pathlib import Path

from bench_files import COMMITTED, a_row, machine, run_of, stock

from sdaccel.benchmarks.quality_rows import QualityRow
from sdaccel.benchmarks.reader import read_all
from sdaccel.benchmarks.selection import groups, machines


def test_the_newest_row_of_a_rung_takes_the_place_of_older_ones(tmp_path: Path) -> None:
    old = run_of(tmp_path, stock(), a_row(times=2.0), date="2026-01-01")
    new = run_of(tmp_path, a_row(times=3.0), date="2026-02-01")
    (found,) = machines([old, new])
    assert {each.row.rung: each.row.speedup for each in found.entries} == {
        "stock-fp32": None,
        "lossless": new.results.rows[0].speedup,
    }
    assert found.older == 1


def test_rows_of_other_settings_dtypes_or_scale_stay_beside_each_other(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        a_row(),
        a_row(dtype="bfloat16"),
        a_row(quick=True),
        a_row(settings={"steps": 50}),
    )
    (found,) = machines([run])
    assert len(found.entries) == 4


def test_rows_at_other_settings_are_another_group_that_says_so(tmp_path: Path) -> None:
    rows = [a_row(), a_row("eager"), a_row(settings={"steps": 50}), a_row("x", workload="vae")]
    (found,) = machines([run_of(tmp_path, *rows)])
    told = [(each.workload, each.apart, len(each.entries)) for each in groups(found.entries)]
    assert told == [("tiny-unet", "steps 2", 2), ("tiny-unet", "steps 50", 1), ("vae", "", 1)]


def test_machines_stay_apart_and_so_do_numbers_of_threads(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, a_row(), slug=slug) for slug in ("x", "y")]
    assert [each.name for each in machines(runs)] == ["x, 2 threads", "y, 2 threads"]
    assert all(len(each.entries) == 1 for each in machines(runs))


def test_pictures_stand_with_their_machine_whatever_the_threads(tmp_path: Path) -> None:
    row = QualityRow("compare-tiny-fast", "fast", "quality", "exact", "picture")
    drawn = run_of(tmp_path, row, machine=machine(threads=1), date="2026-01-02")
    timed = run_of(tmp_path, a_row(), date="2026-01-01")
    (found,) = machines([timed, drawn])
    assert found.name == "a-cpu-2-cores, 2 threads"
    assert [each.row.rung for each in found.entries] == ["lossless", "fast"]
    assert found.described["threads"] == 2


def test_the_fastest_copy_of_all_runs_is_the_machines(tmp_path: Path) -> None:
    rates = {"2026-01-01": 9e9, "2026-01-02": 4e9}
    runs = [
        run_of(tmp_path, a_row(day), machine=machine(copy_ceiling=rate), date=day)
        for day, rate in rates.items()
    ]
    (found,) = machines(runs)
    assert found.copy_ceiling == 9e9
    assert found.described["copy_ceiling"] == 4e9


def test_every_committed_row_is_shown_or_counted_as_older() -> None:
    runs = read_all([COMMITTED])
    rows = sum(len(run.raw_rows) for run in runs)
    assert sum(len(each.entries) + each.older for each in machines(runs)) == rows
