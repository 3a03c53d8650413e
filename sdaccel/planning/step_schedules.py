"""Which steps should be full, given how the features that would be skipped change over the steps.

Of a tensor's values f at steps 0 to T-1 only their inner products are needed: the square of the
distance between f at a step and its forecast from full steps is a sum of such products. For each
number of full steps the ones with the smallest sum over all shallow steps are found by dynamic
programming over the newest full steps that a forecast uses.
"""

from __future__ import annotations

from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]


def forecast_weights(full: Sequence[int], step: int) -> list[float]:
    """What each value at the steps `full` counts for in a forecast at `step` (Lagrange)."""
    weights = []
    for own in full:
        weight = 1.0
        for other in full:
            if other != own:
                weight *= (step - other) / (own - other)
        weights.append(weight)
    return weights


def forecast_error(products: Matrix, full: Sequence[int], step: int) -> float:
    """The squared distance between the value at `step` and its forecast from those at `full`."""
    places = [*full, step]
    weights = [*forecast_weights(full, step), -1.0]
    pairs = zip(places, weights, strict=True)
    total = sum(
        weight * other_weight * products[place][other]
        for place, weight in pairs
        for other, other_weight in zip(places, weights, strict=True)
    )
    return max(0.0, total)


def best_schedules(products: Matrix, order: int) -> dict[int, tuple[tuple[int, ...], float]]:
    """For each number of full steps the best ones, the first and the last step among them.

    `products` (T, T) are the inner products, `order` is the forecast's. Returns the full steps and
    the sum of their squared errors, by number, from 2 (1 for a single step) to T.
    """
    last = len(products) - 1
    spans: dict[tuple[int, ...], list[float]] = {}
    newest: dict[tuple[int, ...], tuple[float, tuple[int, ...]]] = {(0,): (0.0, (0,))}
    found: dict[int, tuple[tuple[int, ...], float]] = {}
    for count in range(1, last + 2):
        ends = [entry for state, entry in newest.items() if state[-1] == last]
        if ends:
            cost, steps = min(ends)
            found[count] = steps, cost
        longer: dict[tuple[int, ...], tuple[float, tuple[int, ...]]] = {}
        for state, (cost, steps) in newest.items():
            if state not in spans:
                spans[state] = _running_errors(products, state)
            for distance, error in enumerate(spans[state]):
                following = state[-1] + distance + 1
                after = (*state, following)[-order - 1 :]
                entry = cost + error, (*steps, following)
                if after not in longer or entry < longer[after]:
                    longer[after] = entry
        newest = longer
    return found


def _running_errors(products: Matrix, full: tuple[int, ...]) -> list[float]:
    """The summed errors of the steps between the last of `full` and each later one."""
    sums, total = [], 0.0
    for step in range(full[-1] + 1, len(products)):
        sums.append(total)
        total += forecast_error(products, full, step)
    return sums
