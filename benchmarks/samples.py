"""What a list of timings says: median, spread, and in which order to take them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

NOISY = 0.10
"""The interquartile range, as a share of the median, above which timings are flagged."""

STOLEN = 0.02
"""The share of a sample's processor time that the host may have given to others."""

DRIFT = 0.10
"""By how much a canary's readings may differ, of the smallest, before a row is flagged."""

Name = TypeVar("Name")


@dataclass(frozen=True)
class Sample:
    """One timing: its seconds, and the share of the processors that the host kept meanwhile.

    `canary` is what the fixed workload took shortly before, None where there is none.
    """

    seconds: float
    stolen: float = 0.0
    canary: float | None = None


def worst_theft(taken: Sequence[Sample]) -> float:
    """The largest stolen share of these samples; 0 where there are none."""
    return max((each.stolen for each in taken), default=0.0)


def median(seconds: Sequence[float]) -> float:
    """The middle of the samples; NaN where there are none."""
    return statistics.median(seconds) if seconds else math.nan


def interquartile_range(seconds: Sequence[float]) -> float:
    """The width of the middle half, quartiles interpolated linearly; NaN below two samples."""
    if len(seconds) < 2:
        return math.nan
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return high - low


def is_noisy(seconds: Sequence[float]) -> bool:
    """Whether the interquartile range exceeds `NOISY` of the median, or can't be known."""
    spread = interquartile_range(seconds)
    return not spread <= NOISY * median(seconds)


def drift(readings: Sequence[float]) -> float:
    """How much the largest of a canary's readings exceeds the smallest, as a share of it."""
    return max(readings) / min(readings) - 1 if readings else 0.0


def there_and_back(names: Sequence[Name], rounds: int) -> list[Name]:
    """Every name once a round, every second round backwards: A B, B A, A B, B A for two names.

    A machine that slowly speeds up or slows down then weighs on all of them alike.
    """
    order: list[Name] = []
    for index in range(rounds):
        order.extend(reversed(names) if index % 2 else names)
    return order


def pays_after(extra_seconds: float, stock: float, faster: float, calls: int = 1) -> float:
    """Pictures of `calls` calls each until a set-up of `extra_seconds` is earned back.

    Infinite where nothing is gained per call, zero where the set-up cost nothing.
    """
    if extra_seconds <= 0:
        return 0.0
    gain = (stock - faster) * calls
    return extra_seconds / gain if gain > 0 else math.inf
