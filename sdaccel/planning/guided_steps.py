"""Which steps with both branches of guidance are measured.

How far the difference of the branches is from its forecast is known for each step, gap and order;
what such an error does to the picture is not, and an early one counts for more. So schedules that
are closer at the start are drawn with beside those that miss least.
"""

from __future__ import annotations

from collections.abc import Sequence

from .step_schedules import Matrix, Points, best_of_orders, kinds_of, schedule_error
from .whole_steps import BENDS, bent_steps

SHARES = (0.16, 0.24, 0.36, 0.52, 0.72)
"""The shares of steps with both branches that are tried."""
ONE_BRANCH = 0.5
"""What a step of one branch counts for, as a share of one of both: half the work."""


def guided_schedules(
    differences: Matrix, shares: Sequence[float], points: Points
) -> list[tuple[tuple[int, ...], int, str]]:
    """For each share the steps that miss least, and bent ones, each with its order and variable.

    `differences` (T, T) are inner products of the branches' difference at any two steps.
    """
    total = len(differences)
    chosen = best_of_orders(differences, shares, points)
    for count in sorted({len(steps) for steps, *_ in chosen if len(steps) > 2}):
        for steps in (bent_steps(total, count, bend) for bend in BENDS):
            kind = _best_kind(differences, steps, points)
            if all(steps != each for each, *_ in chosen):
                chosen.append((steps, *kind))
    return chosen


def _best_kind(differences: Matrix, steps: tuple[int, ...], points: Points) -> tuple[int, str]:
    """The order and the variable in which forecasts between these steps miss least."""
    kinds = kinds_of(points)
    return min(
        kinds, key=lambda kind: schedule_error(differences, steps, kind[0], points.get(kind[1]))
    )
