"""What many paired measurements say together: mean, worst case, and how sure the mean is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

RESAMPLES = 10_000
SEED = 0


@dataclass(frozen=True)
class Summary:
    """One metric over all pairs.

    Where the metric is infinite for equal pairs (PSNR), `identical` counts those, and `mean`, `low`
    and `high` (its 95% interval) are of the others; all three are infinite where there are none.
    `worst` is the worst value, of pair `worst_at`; NaN is worse than any number.
    """

    count: int
    identical: int
    mean: float
    low: float
    high: float
    worst: float
    worst_at: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values; None for what is infinite or NaN, which JSON has no number for."""
        values = asdict(self)
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }


def summarise(values: Sequence[float], higher_is_better: bool) -> Summary:
    """The summary of one value a pair; raises `ValueError` where there is none."""
    if not values:
        raise ValueError("There is nothing to summarise: no pair was measured.")
    differing = [value for value in values if not math.isinf(value)]
    mean = math.fsum(differing) / len(differing) if differing else math.inf
    low, high = bootstrap_interval(differing) if differing else (math.inf, math.inf)
    worst_at = max(range(len(values)), key=lambda index: _badness(values[index], higher_is_better))
    identical = len(values) - len(differing)
    return Summary(len(values), identical, mean, low, high, values[worst_at], worst_at)


def bootstrap_interval(values: Sequence[float], seed: int = SEED) -> tuple[float, float]:
    """The 95% interval of the mean, by resampling the pairs with replacement (Efron 1979).

    The 2.5th and 97.5th percentile of 10,000 means; the same values and seed give the same one.
    Pairs are drawn whole, so of differences within pairs it is the paired interval. NaN gives NaN.
    """
    import numpy

    sample = numpy.asarray(values, dtype=numpy.float64)
    rng = numpy.random.default_rng(seed)
    means = sample[rng.integers(len(sample), size=(RESAMPLES, len(sample)))].mean(axis=1)
    low, high = numpy.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _badness(value: float, higher_is_better: bool) -> float:
    if math.isnan(value):
        return math.inf
    return -value if higher_is_better else value
