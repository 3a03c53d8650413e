"""By what factor samples moved from one run to another, and how sure that is.

Distribution-free: Hodges and Lehmann's estimate (1963), the median of all ratios between the two
sides, with the interval that inverts Mann and Whitney's rank test (1947). Four samples a side are
the fewest that say anything with 95%; an outlier moves it no further than its rank.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Shift:
    """The factor from the first side to the second, and its interval."""

    factor: float
    low: float
    high: float

    def beyond(self, tolerance: float) -> int:
        """1: surely larger by more than the tolerance (a share); -1: surely smaller; else 0."""
        if self.low > 1.0 and self.factor > 1.0 + tolerance:
            return 1
        return -1 if self.high < 1.0 and self.factor < 1.0 / (1.0 + tolerance) else 0


def shift(first: Sequence[float], second: Sequence[float]) -> Shift | None:
    """From positive samples to other positive samples; None where they are too few to tell."""
    if not (first and second):
        return None
    left_out = _left_out(len(first), len(second))
    if left_out is None:
        return None
    ratios = sorted(after / before for before in first for after in second)
    return Shift(statistics.median(ratios), ratios[left_out], ratios[-1 - left_out])


def _left_out(first: int, second: int) -> int | None:
    """How many ratios to leave out at each end for an interval of at least `CONFIDENCE`."""
    allowed = (1.0 - CONFIDENCE) / 2 * math.comb(first + second, first)
    below = 0
    for left_out, ways in enumerate(_arrangements(first, second)):
        below += ways
        if below > allowed:
            return left_out - 1 if left_out else None
    return None


def _arrangements(first: int, second: int) -> list[int]:
    """How many orders of two kinds of samples have 0, 1, 2, ... pairs the wrong way round.

    The coefficients of the Gaussian binomial: those orders that end in a sample of the second
    kind, and those that end in one of the first, which all of the second precede.
    """
    table: dict[tuple[int, int], list[int]] = {}
    for m in range(first + 1):
        for n in range(second + 1):
            if not (m and n):
                table[m, n] = [1]
                continue
            counts = [0] * (m * n + 1)
            for pairs, ways in enumerate(table[m, n - 1]):
                counts[pairs] += ways
            for pairs, ways in enumerate(table[m - 1, n]):
                counts[pairs + n] += ways
            table[m, n] = counts
    return table[first, second]
