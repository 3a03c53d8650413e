"""The harness put to the test: what it must see, and what it must not see.

Stock against itself differs by less than the interval that is reported; a slowdown of 5% is seen; a
rung that does nothing is called so; and what the harness adds to a sample is below 1% of it. The
interval holds in 95 of 100 runs, so one run in twenty fails by chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import measure
from .errors import BenchmarkError
from .ladder import Ladder, Options
from .rungs import BASELINE, Opened, Rung, rung
from .samples import median

if TYPE_CHECKING:
    import torch

    from .rows import Row
    from .workloads import Call, Workload

SLOWDOWN = 0.05
OVERHEAD = 0.01
AGAIN, SLOWER, IDLE, EMPTY = "stock-again", "planted-slowdown", "planted-no-op", "none"
_EMPTY_SAMPLES = 200


@dataclass(frozen=True)
class Check:
    """One thing that was tested: what was found, and whether that is as it must be."""

    name: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.name}: {self.found}"


def self_test(
    workload: Workload, rounds: int, tell: Callable[[str], None]
) -> tuple[list[Check], list[Row]]:
    """Every check, on this workload, and the rows that they rest on."""
    options = Options(rounds, memory=False, stages=False, controls=False)
    planted = [
        Rung(AGAIN, "stock", "stock once more", _again),
        Rung(SLOWER, "control", f"stock, made {SLOWDOWN:.0%} slower", _slower),
        Rung(IDLE, "peer", "a peer that changes nothing", _again),
        rung(EMPTY),
    ]
    rows = Ladder(workload, options, tell).climb(planted)
    found = {row.rung: row for row in rows}
    checks = [
        _sees_no_difference(found[AGAIN]),
        _sees_the_slowdown(found[SLOWER]),
        _sees_idleness(found[IDLE], found[EMPTY]),
        _costs_little(found[BASELINE]),
    ]
    return checks, rows


def slowed(call: Call) -> Call:
    """The call, and a twentieth of its own time spent on nothing after it."""

    def slow() -> torch.Tensor:
        start = time.perf_counter()
        output = call()
        measure.synchronise()
        end = time.perf_counter() + SLOWDOWN * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass
        return output

    return slow


@contextmanager
def _again(pipe: Any, workload: Workload) -> Iterator[Opened]:
    yield Opened(pipe)


@contextmanager
def _slower(pipe: Any, workload: Workload) -> Iterator[Opened]:
    slow = replace(workload, prepare=lambda pipe: slowed(workload.prepare(pipe)))
    yield Opened(pipe, workload=slow)


def _interval(row: Row) -> tuple[float, float]:
    """The speed-up's; raises `BenchmarkError` where the rung was not timed."""
    if row.speedup_low is None or row.speedup_high is None:
        raise BenchmarkError(f"{row.rung} was not timed: {row.status}: {row.reason}")
    return row.speedup_low, row.speedup_high


def _sees_no_difference(row: Row) -> Check:
    low, high = _interval(row)
    found = (
        f"stock against itself is {row.speedup:.3f}x as fast, 95% interval {low:.3f} to {high:.3f}"
    )
    return Check("the same rung twice", low <= 1 <= high, found)


def _sees_the_slowdown(row: Row) -> Check:
    low, high = _interval(row)
    found = (
        f"a twentieth more time is {row.speedup:.3f}x as fast, 95% interval {low:.3f} to {high:.3f}"
    )
    if high >= 1:
        found += "; with more --repeats it shows on a noisy machine too"
    return Check("a planted slowdown", high < 1, found)


def _sees_idleness(*rows: Row) -> Check:
    found = "; ".join(f"{row.rung}: {row.status}" for row in rows)
    return Check("a planted no-op", all(row.status == "did nothing" for row in rows), found)


def _costs_little(stock: Row) -> Check:
    """What a sample of nothing takes, as a share of a sample of stock."""
    import torch

    nothing = torch.zeros(())
    empty = median([measure.timed(lambda: nothing)[1] for _ in range(_EMPTY_SAMPLES)])
    share = empty / median(stock.seconds)
    found = f"{empty * 1e6:.2f} µs a sample, {share:.4%} of stock's {median(stock.seconds):.3f} s"
    return Check("the harness's own time", share < OVERHEAD, found)
