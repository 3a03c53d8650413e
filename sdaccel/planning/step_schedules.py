"""Which steps should be full, given how the features that would be skipped change over the steps.

Of a tensor's values f at steps 0 to T-1 only their inner products are needed: the square of the
distance between f at a step and its forecast from full steps is a sum of such products. For each
number of full steps the ones with the smallest sum over all shallow steps are found by dynamic
programming over the newest full steps that a forecast uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Matrix = Sequence[Sequence[float]]
Points = Mapping[str, Sequence[float]]
"""Where the steps lie, by the variables that forecasts may be polynomials in."""


def forecast_weights(full: Sequence[float], step: float) -> list[float]:
    """What each value at the points `full` counts for in a forecast at `step` (Lagrange)."""
    weights = []
    for own in full:
        weight = 1.0
        for other in full:
            if other != own:
                weight *= (step - other) / (own - other)
        weights.append(weight)
    return weights


def forecast_error(
    products: Matrix, full: Sequence[int], step: int, points: Sequence[float] | None = None
) -> float:
    """The squared distance between the value at `step` and its forecast from those at `full`."""
    places = [*full, step]
    at: Sequence[float] = places if points is None else [points[each] for each in places]
    weights = [*forecast_weights(at[:-1], at[-1]), -1.0]
    pairs = zip(places, weights, strict=True)
    total = sum(
        weight * other_weight * products[place][other]
        for place, weight in pairs
        for other, other_weight in zip(places, weights, strict=True)
    )
    return max(0.0, total)


def best_schedules(
    products: Matrix, order: int, points: Sequence[float] | None = None
) -> dict[int, tuple[tuple[int, ...], float]]:
    """For each number of full steps the best ones, the first and the last step among them.

    `products` (T, T) are the inner products, `order` is the forecast's, `points` (T,) are where the
    steps lie in the variable that it is a polynomial in (None: at their numbers). Returns the full
    steps and the sum of their squared errors, by number, from 2 (1 for a single step) to T.
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
                spans[state] = _running_errors(products, state, points)
            for distance, error in enumerate(spans[state]):
                following = state[-1] + distance + 1
                after = (*state, following)[-order - 1 :]
                entry = cost + error, (*steps, following)
                if after not in longer or entry < longer[after]:
                    longer[after] = entry
        newest = longer
    return found


def schedule_error(
    products: Matrix, full: Sequence[int], order: int, points: Sequence[float] | None = None
) -> float:
    """The sum of the squared errors of a schedule, whose full steps have the first among them."""
    skipped = [step for step in range(len(products)) if step not in full]
    newest = [[each for each in full if each < step][-order - 1 :] for step in skipped]
    pairs = zip(newest, skipped, strict=True)
    return sum(forecast_error(products, known, step, points) for known, step in pairs)


def kinds_of(points: Points) -> list[tuple[int, str]]:
    """The orders of forecasts, and the variables that they may be polynomials in."""
    return [(0, "step"), *((order, each) for order in (1, 2) for each in points)]


def best_of_orders(
    products: Matrix, shares: Sequence[float], points: Points
) -> list[tuple[tuple[int, ...], int, str]]:
    """For each share of full steps the best schedule, with the order and the variable it is for."""
    total = len(products)
    if total < 3:
        return []
    kinds = kinds_of(points)
    found = {kind: best_schedules(products, kind[0], points.get(kind[1])) for kind in kinds}
    counts = sorted({min(total - 1, max(2, round(share * total))) for share in shares})
    chosen = []
    for count in counts:
        kind = min(kinds, key=lambda each: found[each][count][1])
        chosen.append((found[kind][count][0], *kind))
    return chosen


def _running_errors(
    products: Matrix, full: tuple[int, ...], points: Sequence[float] | None
) -> list[float]:
    """The summed errors of the steps between the last of `full` and each later one."""
    sums, total = [], 0.0
    for step in range(full[-1] + 1, len(products)):
        sums.append(total)
        total += forecast_error(products, full, step, points)
    return sums
