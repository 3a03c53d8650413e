"""Which schedules are drawn with where the whole denoiser is left out."""

from __future__ import annotations

import pytest

from sdaccel.passes.calibration_tables import Row
from sdaccel.planning.whole_steps import bent_steps, measure_whole


def test_bent_steps_go_from_the_first_to_the_last_and_are_closer_at_the_start() -> None:
    assert bent_steps(25, 9, 1.0) == (0, 3, 6, 9, 12, 15, 18, 21, 24)
    assert bent_steps(25, 9, 1.8) == (0, 1, 2, 4, 7, 10, 14, 19, 24)
    assert bent_steps(4, 3, 1.8) == (0, 1, 3)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_all_but_the_trial_are_measured_at_the_order_that_did_best(best: int) -> None:
    measured = []

    def measure(steps: tuple[int, ...], order: int, skip: str, variable: str) -> Row:
        measured.append((steps, order, skip))
        return Row(steps, order, 40.0 - abs(order - best), None, skip)

    features = (0, 1, 3, 7, 24)
    rows = measure_whole(measure, 25, [features, tuple(range(24)), (0, 12, 24)], (0.2, 0.36))
    equal = bent_steps(25, 9, 1.0)
    assert measured[:3] == [(equal, order, "whole") for order in (0, 1, 2)]
    assert {order for _, order, _ in measured[3:]} == {best}
    assert features in [steps for steps, *_ in measured]
    assert {len(steps) for steps, *_ in measured} == {5, 9}
    assert len(set(measured)) == len(measured) == len(rows)


def test_generations_that_are_too_short_have_nothing_to_measure() -> None:
    assert measure_whole(lambda *_: Row((), 0, 0.0, None), 3) == []
