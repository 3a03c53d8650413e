"""Which steps of a generation compute everything, known before it begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Choice:
    """The full steps of one generation and the order of the forecasts in between.

    With `whole` nothing of the denoiser runs there. `reason` is a sentence on why nothing is
    skipped, where that needs one. Forecasts are polynomials in `variable` (see `sampler_times`).
    Of a guided generation the full steps compute both branches; `unguided` ones the conditional
    branch alone, without guidance. What was `measured` goes with forecasts from full steps of its
    own: a call that comes up amid a generation is computed until it has as many as they need.
    """

    full: frozenset[int]
    order: int = 0
    reason: str | None = None
    whole: bool = False
    variable: str = "step"
    unguided: frozenset[int] = frozenset()
    measured: bool = False

    @classmethod
    def everything(cls, total: int, reason: str | None = None) -> Choice:
        """All of `total` steps are full."""
        return cls(frozenset(range(total)), 0, reason)


class Chooses(Protocol):
    """What chooses the full steps of a generation of `total` steps."""

    def choose(self, total: int) -> Choice: ...


@dataclass(frozen=True)
class Schedule:
    """Full steps: each `interval`-th one, or those of the list `steps` (counted from 0).

    The first step and the last one are full in any case, with an interval as many at the start as
    a forecast of `order` needs, and with a list each step beyond the list's last: a list made for
    fewer steps never leaves the end of a longer generation shallow.
    Below `fewest` steps all are full. With `whole` the other steps leave out the whole denoiser,
    and the start has no more full steps than the rest: far extrapolation from two that are close
    together costs more than it brings (shapes-unet, DDIM, 25 steps: 37.9 dB, and 49.7 without).
    """

    interval: int
    steps: tuple[int, ...] | None = None
    fewest: int = 0
    order: int = 0
    whole: bool = False
    variable: str = "step"

    def choose(self, total: int) -> Choice:
        """The full steps of a generation of `total` steps."""
        if total < self.fewest:
            return Choice.everything(total, f"{total} steps are too few to skip in")
        if self.steps is None:
            start = 0 if self.whole else self.order
            chosen: Iterable[int] = (*range(start), *range(start, total, self.interval))
        else:
            beyond = max(self.steps, default=total) + 1
            chosen = (*self.steps, *range(beyond, total))
        ends = (0, total - 1)
        full = frozenset((*ends, *(s for s in chosen if s < total)))
        return Choice(full, self.order, whole=self.whole, variable=self.variable)


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
