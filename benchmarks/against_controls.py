"""Whether the plans lie above every control: what they lose at a control's speed, and what it does.

Controls are stock in fewer steps and the peers that skip or merge work. Speeds are over stock in
whichever dtype is faster, which the controls compute in too. Between two plans that no other beats
the frontier is the straight line, as a setting between theirs would have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .rows import Row

SLOWEST, FASTEST = 1.3, 3.5
"""Times as fast as stock: what is slower needs no loss, what is faster nobody can look at."""
HIGHEST_PSNR = 60.0
"""dB: more than that nobody sees, and exact rungs have 130."""
_MEASURES = {"psnr": ("PSNR", "{:.1f} dB"), "fidelity": ("Prompt fidelity", "{:.1%}")}

Point = tuple[float, float]
"""Times as fast as stock, and how good."""
Stock = tuple[float, str]
"""How many times as fast as the baseline it is, and its name."""


@dataclass(frozen=True)
class Above:
    """A control that the plans don't reach: its quality, and theirs at its speed.

    That is None where no plan is as fast.
    """

    control: str
    speed: float
    quality: float
    plans: float | None


def verdicts(rows: Sequence[Row]) -> list[str]:
    """One sentence for each measure that both plans and controls have."""
    said, stock = [], _stock(rows)
    for measure, (name, unit) in _MEASURES.items():
        ours = [row for row in rows if row.kind == "plan"]
        plans = [point for row in ours if (point := _point(row, measure, stock))]
        controls = [
            (row.rung, point)
            for row in rows
            if is_control(row) and (point := _point(row, measure, stock))
            if SLOWEST <= point[0] <= FASTEST
        ]
        if plans and controls:
            found = above(plans, controls)
            said.append(f"{name}: {_sentence(found, len(controls), unit, stock[1])}")
    return said


def _stock(rows: Sequence[Row]) -> Stock:
    """Stock as it is fastest; the baseline itself is `stock` for short."""
    found = [
        (row.speedup, row.rung)
        for row in rows
        if row.kind == "stock" and row.status == "ok" and row.speedup is not None
    ]
    return max([(1.0, "stock"), *found])


def above(plans: Sequence[Point], controls: Sequence[tuple[str, Point]]) -> list[Above]:
    """The controls that lie above the plans' frontier, slowest first."""
    found = [
        Above(name, speed, quality, quality_at(plans, speed)) for name, (speed, quality) in controls
    ]
    higher = [each for each in found if each.plans is None or each.quality > each.plans]
    return sorted(higher, key=lambda each: each.speed)


def quality_at(plans: Sequence[Point], speed: float) -> float | None:
    """The most that plans keep at a speed; None beyond the fastest."""
    edge = [each for each in sorted(set(plans)) if not _beaten(each, plans)]
    faster = [quality for at, quality in edge if at >= speed]
    if not faster:
        return None
    between = [
        left + (right - left) * (speed - low) / (high - low)
        for (low, left), (high, right) in pairwise(edge)
        if low <= speed <= high
    ]
    return max([*faster, *between])


def _beaten(point: Point, others: Sequence[Point]) -> bool:
    return any(each[0] >= point[0] and each[1] >= point[1] and each != point for each in others)


def is_control(row: Row) -> bool:
    """Whether a row is stock in fewer steps, or a peer that is approximate."""
    return row.kind == "control" or (row.kind == "peer" and row.effect == "approximate")


def _point(row: Row, measure: str, stock: Stock) -> Point | None:
    quality = row.quality.get(measure)
    if row.status != "ok" or row.speedup is None or quality is None:
        return None
    return row.speedup / stock[0], min(quality, HIGHEST_PSNR)


def _sentence(higher: Sequence[Above], count: int, unit: str, stock: str) -> str:
    found = f"of {count} controls from {SLOWEST} to {FASTEST} times as fast as {stock}"
    if not higher:
        return f"{found} none lies above the plans' frontier."
    named = [
        f"{each.control} at {each.speed:.2f}x ({unit.format(each.quality)}; "
        + ("no plan is as fast)" if each.plans is None else f"plans {unit.format(each.plans)})")
        for each in higher
    ]
    return f"{found} {len(higher)} lie above the plans' frontier: {', '.join(named)}."
