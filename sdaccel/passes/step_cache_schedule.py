"""Which steps of a generation compute everything, known before it begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """Full steps: each `interval`-th one, or those of the list `steps` (counted from 0).

    The first step and the last one are full in any case, and with a list each step beyond the
    list's last: a list made for fewer steps never leaves the end of a longer generation shallow.
    Below `fewest` steps all are full.
    """

    interval: int
    steps: tuple[int, ...] | None = None
    fewest: int = 0

    def full_steps(self, total: int) -> frozenset[int]:
        """The full steps of a generation of `total` steps."""
        if total < self.fewest:
            return frozenset(range(total))
        if self.steps is None:
            chosen: Iterable[int] = range(0, total, self.interval)
        else:
            beyond = max(self.steps, default=total) + 1
            chosen = (*self.steps, *range(beyond, total))
        return frozenset((0, total - 1, *(step for step in chosen if step < total)))


def whole_number(name: str, value: Any, least: int) -> int:
    """`value`, where it is a whole number of at least `least`; else `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is a whole number of at least {least}, not {value!r}")
    return value


def step_list(steps: Any) -> tuple[int, ...] | None:
    """`steps` in order, each once, or None; `ValueError` for anything but a list of steps."""
    if steps is None:
        return None
    if isinstance(steps, (str, bytes)) or not isinstance(steps, Iterable):
        raise ValueError(f"steps is a list of step numbers or None, not {steps!r}")
    numbers = [whole_number("each of steps", each, 0) for each in steps]
    if not numbers:
        raise ValueError("steps is empty: give the numbers of the full steps, such as [0, 1, 4]")
    return tuple(sorted(set(numbers)))
