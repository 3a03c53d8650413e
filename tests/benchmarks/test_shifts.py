"""Factors between samples, and intervals that hold what they promise."""

from __future__ import annotations

import math

import numpy
import pytest

from sdaccel.benchmarks.shifts import (
    FEWEST_PAIRS,
    Shift,
    _left_out,
    _rank_sums,
    _signed_ranks,
    shift,
)


def test_orders_of_samples_are_all_counted() -> None:
    assert _rank_sums(1, 2) == [1, 1, 1]
    assert _rank_sums(2, 2) == [1, 1, 2, 1, 1]
    assert sum(_rank_sums(20, 20)) == math.comb(40, 20)
    assert _signed_ranks(3) == [1, 1, 1, 2, 1, 1, 1]
    assert sum(_signed_ranks(20)) == 2**20


@pytest.mark.parametrize(
    ("first", "second", "critical"),
    [(3, 3, None), (3, 5, 0), (4, 4, 0), (5, 5, 2), (6, 6, 5), (10, 10, 23), (20, 20, 127)],
)
def test_the_rank_test_has_its_published_critical_values(
    first: int, second: int, critical: int | None
) -> None:
    assert _left_out(_rank_sums(first, second)) == critical


@pytest.mark.parametrize(
    ("pairs", "critical"),
    [
        (FEWEST_PAIRS - 1, None),
        (FEWEST_PAIRS, 0),
        (7, 2),
        (8, 3),
        (9, 5),
        (10, 8),
        (20, 52),
        (25, 89),
    ],
)
def test_the_test_of_signed_ranks_has_its_published_critical_values(
    pairs: int, critical: int | None
) -> None:
    assert _left_out(_signed_ranks(pairs)) == critical


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
    assert shift([1.0] * 5, [2.0] * 5, paired=True) is None
    assert shift([], [], paired=True) is None


def test_what_a_drifting_machine_does_to_both_halves_of_a_pair_cancels() -> None:
    drift = [1.0, 1.3, 0.8, 1.6, 0.9, 1.2, 1.5, 0.7]
    wobble = [1.001, 0.999, 1.002, 0.998, 1.0, 1.001, 0.999, 1.0]
    slower = [1.05 * each * own for each, own in zip(drift, wobble, strict=True)]
    pairs = shift(drift, slower, paired=True)
    heaps = shift(drift, slower)
    assert pairs is not None
    assert heaps is not None
    assert 1.04 < pairs.low < 1.05 < pairs.high < 1.06
    assert heaps.low < 1 < heaps.high, "two heaps can't tell"


def test_pairs_tell_more_than_their_signs() -> None:
    gains = [1.10, 1.09, 1.12, 0.999, 1.08, 1.11, 1.10, 1.07]
    found = shift([1.0] * 8, gains, paired=True)
    assert found is not None
    assert found.low > 1, "the sign test's interval begins at the smallest of eight"
    assert found.factor == pytest.approx(1.09, abs=0.01)


def test_a_change_within_the_tolerance_or_the_interval_does_not_count() -> None:
    assert Shift(1.01, 1.005, 1.015).beyond(0.02) == 0
    assert Shift(1.2, 0.9, 1.6).beyond(0.02) == 0
    assert Shift(0.9, 0.85, 0.95).beyond(0.02) == -1


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("noise", ["normal", "skewed"])
def test_the_interval_misses_the_truth_in_at_most_one_of_twenty(paired: bool, noise: str) -> None:
    rng = numpy.random.default_rng(0)
    for size in (6, 9):
        missed = 0
        for _ in range(400):
            drawn = rng.normal(0, 0.05, (2, size))
            first, second = numpy.exp(drawn if noise == "normal" else numpy.abs(drawn) ** 2 * 9)
            found = shift(list(first), list(second), paired=paired)
            assert found is not None
            missed += not found.low <= 1 <= found.high
        assert missed / 400 < 0.08
