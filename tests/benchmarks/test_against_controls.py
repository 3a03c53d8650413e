"""Controls above the plans' frontier are named, with what both keep at that speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_files import a_row, stock, written

from sdaccel.benchmarks.__main__ import main
from sdaccel.benchmarks.against_controls import above, quality_at, verdicts

PLANS = [(1.0, 60.0), (2.0, 40.0), (1.9, 39.0), (3.0, 30.0)]


@pytest.mark.parametrize(
    ("speed", "quality"),
    [(0.5, 60.0), (1.0, 60.0), (1.5, 50.0), (2.0, 40.0), (2.5, 35.0), (3.0, 30.0), (3.1, None)],
)
def test_between_two_plans_the_frontier_is_straight_and_it_ends_at_the_fastest(
    speed: float, quality: float | None
) -> None:
    assert quality_at(PLANS, speed) == quality
    assert quality_at(PLANS[:1], speed) == (60.0 if speed <= 1 else None)


def test_a_control_is_above_where_it_keeps_more_or_is_faster_than_any_plan() -> None:
    controls = [
        ("too-fast", (3.2, 10.0)),
        ("better", (2.5, 35.1)),
        ("equal", (2.5, 35.0)),
        ("worse", (1.5, 49.0)),
    ]
    found = above(PLANS, controls)
    assert [(each.control, each.plans) for each in found] == [("better", 35.0), ("too-fast", None)]


def judged(rung: str, times: float, psnr: float, kind: str, **more: Any) -> Any:
    shares = dict.fromkeys(("fidelity", "fidelity_low", "fidelity_high"), psnr / 100)
    quality = {"psnr": psnr, "prompts": 16, **shares}
    return a_row(rung, times, kind=kind, effect="approximate", quality=quality, **more)


def test_show_says_it_of_each_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        stock(),
        judged("mild", 1.5, 40, "plan"),
        judged("strong", 2.5, 30, "plan"),
        judged("fewer-steps-12", 2.0, 34, "control"),
        judged("deepcache-3", 2.0, 36, "peer"),
        judged("tomesd-0.3", 1.2, 50, "peer"),
        judged("taylorseer-2", 2.0, 99, "peer", status="failed"),
        a_row("torch-compile", 1.4, kind="peer", quality={"psnr": 90.0}),
    ]
    assert main(["show", str(written(tmp_path, *rows))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "PSNR: of 2 controls from 1.3 to 3.5 times as fast as stock 1 lie above the plans' "
        "frontier: deepcache-3 at 2.00x (36.0 dB; plans 35.0 dB)."
    ) in said
    assert "Prompt fidelity: of 2 controls" in said
    told = verdicts([each for each in rows if each.rung != "deepcache-3"])
    assert [each.endswith("none lies above the plans' frontier.") for each in told] == [True, True]
    assert verdicts([each for each in rows if each.kind != "plan"]) == []


def test_where_stock_is_faster_in_16_bit_speeds_are_over_that() -> None:
    rows = [
        stock(),
        a_row("stock-16bit", 2.0, kind="stock", effect="lower precision", dtype="bfloat16"),
        judged("mild", 3.0, 40, "plan"),
        judged("strong", 5.0, 30, "plan"),
        judged("fewer-steps-12", 4.0, 36, "control"),
        judged("fewer-steps-24", 2.5, 50, "control"),
    ]
    told, _ = verdicts(rows)
    assert told == (
        "PSNR: of 1 controls from 1.3 to 3.5 times as fast as stock-16bit 1 lie above the plans' "
        "frontier: fewer-steps-12 at 2.00x (36.0 dB; plans 35.0 dB)."
    )
    slower = [replace(row, status="skipped") if row.rung == "stock-16bit" else row for row in rows]
    assert "times as fast as stock 1 lie above" in verdicts(slower)[0]
