"""What the harness must see of itself, on a call whose time is known."""

from __future__ import annotations

import time

import pytest
import torch

from sdaccel.benchmarks import command, measure, self_test
from sdaccel.benchmarks.errors import BenchmarkError
from sdaccel.benchmarks.rows import Row


def row(name: str, ratios: list[float], status: str = "ok") -> Row:
    made = Row("tiny", name, "control", "exact", "picture", status=status)
    made.seconds, made.baseline_seconds = [1.0] * len(ratios), ratios
    return made


@pytest.mark.parametrize(
    ("ratios", "same", "slower"),
    [
        ([0.99, 1.01, 1.0, 1.02, 0.98, 1.0], True, False),
        ([0.95, 0.96, 0.94, 0.95, 0.96, 0.95], False, True),
        ([1.05, 1.04, 1.06, 1.05, 1.05, 1.06], False, False),
    ],
)
def test_a_ratio_is_one_or_it_is_not(ratios: list[float], same: bool, slower: bool) -> None:
    assert self_test._sees_no_difference(row("again", ratios)).passed is same
    assert self_test._sees_the_slowdown(row("slower", ratios)).passed is slower


def test_a_no_op_that_was_timed_as_if_it_did_something_is_a_failure() -> None:
    idle, busy = row("idle", [1.0], "did nothing"), row("busy", [1.0])
    assert self_test._sees_idleness(idle, idle).passed
    assert not self_test._sees_idleness(idle, busy).passed


def test_the_harness_adds_less_than_a_hundredth_to_a_tenth_of_a_second() -> None:
    stock = row("stock-fp32", [1.0])
    stock.seconds = [0.1]
    check = self_test._costs_little(stock)
    assert check.passed, check.found
    stock.seconds = [1e-7]
    assert not self_test._costs_little(stock).passed


def test_the_planted_slowdown_is_a_twentieth_of_each_call() -> None:
    output = torch.ones(1)

    def call() -> torch.Tensor:
        time.sleep(0.1)
        return output

    slow = self_test.slowed(call)
    found, seconds = measure.timed(slow)
    assert found is output
    assert seconds >= 0.105


def test_too_few_rounds_for_an_interval_are_refused_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.self_test_parser().parse_args(["--repeats", "6"]).repeats == 6
    with pytest.raises(SystemExit):
        command.self_test_parser().parse_args(["--repeats", "5"])
    assert "at least 6: fewer have no interval" in capsys.readouterr().err


def test_a_rung_that_was_not_timed_has_no_interval() -> None:
    with pytest.raises(BenchmarkError, match=r"again was not timed: failed"):
        self_test._sees_no_difference(row("again", [], "failed"))
