"""By what factor samples moved, and how sure that is: the one statistic of rows, page and `diff`.

Hodges and Lehmann's estimate (1963) with the interval that inverts Wilcoxon's rank test (1945): of
pairs by their signed ranks, of two runs, which have no pairs, by their rank sums. An outlier moves
it no further than its rank.

Why signed ranks for samples that were taken in turns (A B B A): whatever the machine does meanwhile
falls on both halves of a pair and leaves their ratio, so pairs say more than two heaps of samples
do. The test asks that logarithms of the ratios spread alike to both sides, and nothing else; they
do, whatever the noise is, where it stretches both halves by factors of one distribution: the
logarithm of a ratio is then the difference of two alike terms. The sign test asks for less, and
needs half as many pairs more to be as sure of normal ones; Student's t asks for that shape.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

CONFIDENCE = 0.95
FEWEST_PAIRS = 6
"""That give an interval of that confidence."""


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


def shift(first: Sequence[float], second: Sequence[float], *, paired: bool = False) -> Shift | None:
    """From positive samples to other positive samples, with `paired` the i-th to the i-th.

    None where they are too few to tell: `FEWEST_PAIRS`, or four samples a side, are needed.
    """
    if paired:
        logs = [math.log(after / before) for before, after in zip(first, second, strict=True)]
        found = [(one + other) / 2 for one, other in combinations_with_replacement(logs, 2)]
        left_out = _left_out(_signed_ranks(len(logs)))
    else:
        found = [math.log(after / before) for before in first for after in second]
        left_out = _left_out(_rank_sums(len(first), len(second)))
    if left_out is None:
        return None
    found.sort()
    ends = statistics.median(found), found[left_out], found[-1 - left_out]
    return Shift(*(math.exp(each) for each in ends))


def _left_out(ways: Sequence[int]) -> int | None:
    """How many values to leave out at each end for an interval of at least `CONFIDENCE`.

    `ways[k]` of all equally likely arrangements give the test the value k; None where even the
    rarest is too common.
    """
    allowed = (1.0 - CONFIDENCE) / 2 * sum(ways)
    below = 0
    for left_out, each in enumerate(ways):
        below += each
        if below > allowed:
            return left_out - 1 if left_out else None
    return None


def _signed_ranks(pairs: int) -> list[int]:
    """How many sets of the ranks 1 to `pairs` have the sum 0, 1, 2, ..."""
    counts = [1]
    for rank in range(1, pairs + 1):
        without, added = [*counts, *[0] * rank], [*[0] * rank, *counts]
        counts = [sum(each) for each in zip(without, added, strict=True)]
    return counts


def _rank_sums(first: int, second: int) -> list[int]:
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
