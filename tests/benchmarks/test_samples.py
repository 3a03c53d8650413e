"""Medians, spreads and the order in which samples are taken."""

from __future__ import annotations

import math

import pytest

from sdaccel.benchmarks import samples


def test_median_and_interquartile_range_of_known_samples() -> None:
    seconds = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert samples.median(seconds) == 3.0
    assert samples.interquartile_range(seconds) == 2.0


def test_without_samples_there_is_no_number() -> None:
    assert math.isnan(samples.median([]))
    assert math.isnan(samples.interquartile_range([1.0]))


def test_a_spread_above_a_tenth_of_the_median_is_flagged() -> None:
    assert not samples.is_noisy([0.96, 1.0, 1.0, 1.04])
    assert samples.is_noisy([0.9, 0.9, 1.1, 1.1])
    assert samples.is_noisy([1.0]), "one sample says nothing about noise"


def test_one_outlier_among_many_is_no_noise() -> None:
    assert not samples.is_noisy([1.0] * 9 + [30.0])


def test_two_rungs_alternate_there_and_back() -> None:
    assert "".join(samples.there_and_back("AB", 4)) == "ABBAABBA"
    assert "".join(samples.there_and_back("ABC", 2)) == "ABCCBA"


def test_a_steady_drift_weighs_on_all_alike() -> None:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(samples.there_and_back("ABC", 6)):
        places.setdefault(name, []).append(place)
    assert len({sum(each) for each in places.values()}) == 1


@pytest.mark.parametrize(
    ("extra", "stock", "faster", "calls", "pictures"),
    [
        (60.0, 2.0, 1.5, 20, 6.0),
        (0.0, 2.0, 2.5, 1, 0.0),
        (60.0, 2.0, 2.5, 1, math.inf),
        (60.0, 2.0, 2.0, 1, math.inf),
    ],
)
def test_pictures_until_a_set_up_is_earned_back(
    extra: float, stock: float, faster: float, calls: int, pictures: float
) -> None:
    assert samples.pays_after(extra, stock, faster, calls) == pytest.approx(pictures)


def test_drift_is_how_much_the_slowest_reading_exceeds_the_fastest() -> None:
    assert samples.drift([2.0, 2.2, 2.1]) == pytest.approx(0.1)
    assert samples.drift([]) == 0.0
