"""The best schedules are those that trying all of them would find."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch

from sdaccel.passes.step_cache_history import History
from sdaccel.planning.step_schedules import best_of_orders, best_schedules, forecast_error

STEPS = 8
UNEQUAL = [0.0, 0.1, 0.4, 1.5, 1.7, 4.0, 4.2, 9.0]


def values() -> torch.Tensor:
    """A bent path of three numbers a step, with noise: (STEPS, 3)."""
    random = torch.Generator().manual_seed(1)
    steps = torch.arange(STEPS, dtype=torch.float64)[:, None]
    return torch.randn(STEPS, 3, generator=random, dtype=torch.float64) + 0.3 * steps**2


def total_error(
    path: torch.Tensor, full: tuple[int, ...], order: int, points: Sequence[float]
) -> float:
    """What the cache's own forecasts miss, summed over all shallow steps."""
    history, total = History(order), 0.0
    for step in range(STEPS):
        if step in full:
            history.keep(points[step], path[step])
        else:
            total += float((history.predict(points[step]) - path[step]).square().sum())
    return total


@pytest.mark.parametrize("points", [None, UNEQUAL])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_no_schedule_of_as_many_full_steps_is_better(
    order: int, points: list[float] | None
) -> None:
    path, at = values(), points or list(range(STEPS))
    found = best_schedules((path @ path.T).tolist(), order, points)
    assert sorted(found) == list(range(2, STEPS + 1))
    for count, (full, error) in found.items():
        inner = itertools.combinations(range(1, STEPS - 1), count - 2)
        least = min(total_error(path, (0, *each, STEPS - 1), order, at) for each in inner)
        assert len(full) == count
        assert error == pytest.approx(least, abs=1e-9)
        assert total_error(path, full, order, at) == pytest.approx(least, abs=1e-9)


def test_full_steps_gather_where_the_values_change() -> None:
    path = torch.tensor([[0.0], [0.1], [0.1], [4.0], [-3.0], [2.0], [2.1], [2.1]]).double()
    full, error = best_schedules((path @ path.T).tolist(), 0)[5]
    assert full == (0, 3, 4, 5, 7)
    assert error == pytest.approx(0.03)


@pytest.mark.parametrize("order", [1, 2])
def test_the_variable_is_that_in_which_the_values_are_a_polynomial(order: int) -> None:
    path = torch.tensor(UNEQUAL).double()[:, None] ** order
    points = {"step": [float(step) for step in range(STEPS)], "sigma": UNEQUAL}
    ((_, found, variable),) = best_of_orders((path @ path.T).tolist(), (0.7,), points)
    assert (found, variable) == (order, "sigma")


def test_the_error_of_a_step_among_the_full_ones_is_none() -> None:
    path = values()
    products = (path @ path.T).tolist()
    assert forecast_error(products, (2, 5), 5) == pytest.approx(0, abs=1e-9)
