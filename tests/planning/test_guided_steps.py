"""Which steps with both branches of guidance are drawn with."""

from __future__ import annotations

import torch

from sdaccel.planning.guided_steps import guided_schedules
from sdaccel.planning.step_schedules import forecast_error
from sdaccel.planning.whole_steps import bent_steps

STEPS = 12
EVEN = {"step": [float(step) for step in range(STEPS)]}


def products_of(difference: torch.Tensor) -> list[list[float]]:
    """The inner products of a difference (STEPS, N)."""
    found: list[list[float]] = (difference @ difference.T).tolist()
    return found


def test_both_branches_are_computed_where_their_difference_changes() -> None:
    early = [0.0, 5.0, -3.0, 4.0, *([1.0] * (STEPS - 4))]
    differences = products_of(torch.tensor(early).double()[:, None])
    (least, *_), *bent = guided_schedules(differences, (0.5,), EVEN)
    assert {0, 1, 2, 3, 4} <= set(least)
    assert bent_steps(STEPS, 6, 1.0) in [steps for steps, *_ in bent]


def test_each_schedule_has_the_order_that_misses_least_between_its_steps() -> None:
    steps = torch.arange(STEPS).double()[:, None]
    for order, difference in ((0, torch.ones_like(steps)), (1, steps), (2, steps**2)):
        differences = products_of(difference)
        for full, found, variable in guided_schedules(differences, (0.5,), EVEN):
            assert (found, variable) == (order, "step") or len(full) > STEPS - 2
            if order and 2 not in full:
                assert forecast_error(differences, full[:1], 2) > 0.5
