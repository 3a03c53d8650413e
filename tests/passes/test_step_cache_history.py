"""Forecasts are polynomials through the newest values, at unequal distances too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sdaccel.passes.step_cache_history import History

POLYNOMIALS: list[Callable[[float], float]] = [
    lambda x: 3.0 + 0.0 * x,
    lambda x: 3.0 - 2.0 * x,
    lambda x: 3.0 - 2.0 * x + 0.5 * x * x,
]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_forecast_is_exact_for_polynomials_of_its_order(order: int) -> None:
    history = History(order)
    for point in (0, 1, 4, 6):
        history.keep(point, torch.full((2, 3), POLYNOMIALS[order](point), dtype=torch.float64))
    for point in (7, 9.5):
        wanted = torch.full((2, 3), POLYNOMIALS[order](point), dtype=torch.float64)
        torch.testing.assert_close(history.predict(point), wanted)


@pytest.mark.parametrize("order", [0, 1])
def test_a_forecast_misses_polynomials_of_a_higher_order(order: int) -> None:
    history = History(order)
    for point in (0, 1, 4):
        history.keep(point, torch.tensor(POLYNOMIALS[order + 1](point)))
    assert abs(float(history.predict(6)) - POLYNOMIALS[order + 1](6)) > 1


def test_with_fewer_values_the_order_is_lower() -> None:
    history = History(2)
    history.keep(0, torch.tensor(1.0))
    assert float(history.predict(5)) == 1.0
    history.keep(2, torch.tensor(2.0))
    assert float(history.predict(5)) == 3.5


def test_no_more_is_kept_than_the_order_needs() -> None:
    history = History(1)
    assert not history
    for point in range(5):
        history.keep(point, torch.zeros(4))
    assert history
    assert history.nbytes == 2 * 16


def test_a_value_at_the_same_point_takes_the_place_of_the_one_before() -> None:
    history = History(1)
    for point, value in ((0, 5.0), (2, 1.0), (2, 3.0)):
        history.keep(point, torch.tensor(value))
    assert float(history.predict(4)) == 1.0
