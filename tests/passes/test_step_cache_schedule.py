"""Full steps: each interval-th, or a list; the first, the last, and what a list does not reach."""

from __future__ import annotations

import pytest

from sdaccel.passes.step_cache_schedule import Schedule


@pytest.mark.parametrize(
    ("interval", "total", "full"),
    [
        (1, 4, {0, 1, 2, 3}),
        (2, 7, {0, 2, 4, 6}),
        (3, 9, {0, 3, 6, 8}),
        (50, 6, {0, 5}),
        (3, 1, {0}),
    ],
)
def test_each_interval_th_step_is_full_and_so_are_the_ends(
    interval: int, total: int, full: set[int]
) -> None:
    assert Schedule(interval).choose(total).full == full


def test_a_forecast_has_as_many_full_steps_at_the_start_as_it_needs() -> None:
    assert Schedule(3, order=1).choose(12).full == {0, 1, 4, 7, 10, 11}
    assert Schedule(4, order=2).choose(12).full == {0, 1, 2, 6, 10, 11}


def test_a_list_is_taken_as_it_is_and_the_ends_are_added() -> None:
    assert Schedule(3, (2, 5, 11)).choose(12).full == {0, 2, 5, 11}
    assert Schedule(3, (2, 5, 10)).choose(12).full == {0, 2, 5, 10, 11}


def test_beyond_a_list_s_last_step_all_are_full() -> None:
    assert Schedule(3, (0, 3)).choose(7).full == {0, 3, 4, 5, 6}


def test_a_list_for_more_steps_serves_a_shorter_generation() -> None:
    assert Schedule(3, (0, 4, 8, 20)).choose(10).full == {0, 4, 8, 9}


def test_below_the_fewest_steps_all_are_full() -> None:
    few = Schedule(3, fewest=10).choose(9)
    assert few.full == set(range(9))
    assert few.reason == "9 steps are too few to skip in"
    assert Schedule(3, fewest=10).choose(10).full == {0, 3, 6, 9}
