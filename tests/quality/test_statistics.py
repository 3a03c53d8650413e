from __future__ import annotations

import math

import numpy
import pytest

from sdaccel.quality.statistics import bootstrap_interval, summarise


def test_the_worst_is_the_lowest_where_higher_is_better_and_else_the_highest() -> None:
    values = [3.0, 1.0, 2.0]
    assert (summarise(values, True).worst, summarise(values, True).worst_at) == (1.0, 1)
    assert (summarise(values, False).worst, summarise(values, False).worst_at) == (3.0, 0)
    assert summarise(values, True).mean == 2.0


def test_nan_is_worse_than_anything_and_spoils_the_mean() -> None:
    for higher in (True, False):
        found = summarise([1.0, math.nan, 3.0], higher)
        assert math.isnan(found.worst)
        assert found.worst_at == 1
        assert math.isnan(found.mean)
        assert found.to_dict()["mean"] is None


def test_identical_pairs_are_counted_and_the_mean_is_of_the_others() -> None:
    found = summarise([math.inf, 40.0, 50.0, math.inf], True)
    assert (found.identical, found.mean, found.worst) == (2, 45.0, 40.0)
    assert 40 <= found.low <= found.high <= 50
    nothing_else = summarise([math.inf, math.inf], True)
    assert nothing_else.mean == nothing_else.low == nothing_else.worst == math.inf
    assert nothing_else.to_dict()["mean"] is None


def test_the_interval_is_the_normal_one_for_many_values_and_the_same_every_time() -> None:
    values = list(numpy.random.default_rng(0).normal(5, 2, 400))
    low, high = bootstrap_interval(values)
    half = 1.96 * numpy.std(values) / math.sqrt(len(values))
    assert low == pytest.approx(numpy.mean(values) - half, abs=0.02)
    assert high == pytest.approx(numpy.mean(values) + half, abs=0.02)
    assert (low, high) == bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_the_interval_of_differences_is_the_paired_one() -> None:
    """Pairs that vary much, but always together: the change is sure though the scores are not."""
    first = numpy.random.default_rng(0).normal(0, 10, 50)
    low, high = bootstrap_interval(list(first + 1 - first))
    assert low == pytest.approx(1)
    assert high == pytest.approx(1)


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="no pair"):
        summarise([], True)
