"""Factors between samples, and intervals that hold what they promise."""

from __future__ import annotations

import math

import numpy
import pytest

from sdaccel.benchmarks.shifts import Shift, _arrangements, _left_out, shift


def test_orders_of_samples_are_all_counted() -> None:
    assert _arrangements(1, 2) == [1, 1, 1]
    assert _arrangements(2, 2) == [1, 1, 2, 1, 1]
    assert sum(_arrangements(20, 20)) == math.comb(40, 20)


@pytest.mark.parametrize(
    ("first", "second", "critical"),
    [(3, 3, None), (3, 5, 0), (4, 4, 0), (5, 5, 2), (6, 6, 5), (10, 10, 23), (20, 20, 127)],
)
def test_the_rank_test_has_its_published_critical_values(
    first: int, second: int, critical: int | None
) -> None:
    assert _left_out(first, second) == critical


def test_a_shift_is_the_factor_between_the_two() -> None:
    before = [1.0, 1.02, 0.98, 1.01]
    found = shift(before, [2 * each for each in before])
    assert found is not None
    assert found.factor == pytest.approx(2.0, rel=0.01)
    assert 1.9 < found.low < 2.0 < found.high < 2.1
    assert found.beyond(0.02) == 1


def test_one_outlier_does_not_move_it() -> None:
    before = [1.0, 1.01, 0.99, 1.0, 1.005, 0.995]
    found = shift(before, [*before[:-1], 50.0])
    assert found is not None
    assert found.factor == pytest.approx(1.0, abs=0.02)
    assert found.beyond(0.02) == 0


def test_too_few_samples_say_nothing() -> None:
    assert shift([1.0] * 3, [2.0] * 3) is None
    assert shift([], [1.0] * 9) is None


def test_a_change_within_the_tolerance_or_the_interval_does_not_count() -> None:
    assert Shift(1.01, 1.005, 1.015).beyond(0.02) == 0
    assert Shift(1.2, 0.9, 1.6).beyond(0.02) == 0
    assert Shift(0.9, 0.85, 0.95).beyond(0.02) == -1


def test_the_interval_misses_the_truth_in_at_most_one_of_twenty() -> None:
    rng = numpy.random.default_rng(0)
    for size in (4, 6, 9):
        missed = 0
        for _ in range(400):
            first, second = numpy.exp(rng.normal(0, 0.05, (2, size)))
            found = shift(list(first), list(second))
            assert found is not None
            missed += not found.low <= 1 <= found.high
        assert missed / 400 < 0.08
