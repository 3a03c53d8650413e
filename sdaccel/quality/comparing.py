"""Puts pairs of drawings, each of one prompt and one noise, through the metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import MetricError
from .faults import fault
from .metrics import Drawing, Metric
from .statistics import Summary, summarise

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Pair:
    """What two plans drew of the same prompt from the same noise."""

    prompt: str
    first: Drawing
    second: Drawing


@dataclass(frozen=True)
class Measured:
    """One metric over all pairs, in their order; None for a pair whose prompt it can't judge.

    `values` are distances, or how much higher the second drawing scores than the first, whose own
    scores `scores` then holds, first and second. `summary` counts pairs as `values` does.
    """

    metric: Metric
    values: Values
    scores: tuple[Values, Values] | None
    summary: Summary

    @property
    def unjudged(self) -> int:
        """How many pairs have no value."""
        return self.values.count(None)

    def means(self) -> tuple[float, float] | None:
        """The mean scores of the first and of the second; None for a distance."""
        if self.scores is None:
            return None
        first, second = (_known(each) for each in self.scores)
        return sum(first) / len(first), sum(second) / len(second)


@dataclass(frozen=True)
class Fault:
    """A drawing of pair `index` that is good for nothing; `second` says whose."""

    index: int
    second: bool
    reason: str


@dataclass(frozen=True)
class Comparison:
    """All that was found: by metric, why others were not measured, and what is plainly broken."""

    prompts: tuple[str, ...]
    measured: dict[str, Measured]
    skipped: dict[str, str]
    faults: tuple[Fault, ...]


def compare(
    pairs: Sequence[Pair],
    metrics: Sequence[Metric],
    tell: Callable[[str], Any] = str,
) -> Comparison:
    """Measure every pair by every metric; `tell` hears the name of each before it begins.

    A metric that raises `MetricError` is skipped with that reason. Raises `ValueError` where there
    are no pairs.
    """
    if not pairs:
        raise ValueError("There is nothing to compare: no pair was drawn.")
    measured: dict[str, Measured] = {}
    skipped: dict[str, str] = {}
    for metric in metrics:
        tell(metric.name)
        try:
            measured[metric.name] = _measure(metric, pairs)
        except MetricError as error:
            skipped[metric.name] = str(error)
    tell("faults")
    return Comparison(tuple(pair.prompt for pair in pairs), measured, skipped, _faults(pairs))


def _measure(metric: Metric, pairs: Sequence[Pair]) -> Measured:
    function = metric.load()
    if not metric.of_one:
        values: Values = tuple(function(pair.first, pair.second) for pair in pairs)
        return Measured(metric, values, None, summarise(_known(values), metric.higher_is_better))
    scored = [_scores(function, pair) for pair in pairs]
    first, second = tuple(a for a, _ in scored), tuple(b for _, b in scored)
    values = tuple(None if a is None or b is None else b - a for a, b in scored)
    if not _known(values):
        raise MetricError("None of these prompts is in the grammar that the checker knows.")
    return Measured(metric, values, (first, second), _summary(values, metric))


def _scores(
    function: Callable[[Drawing, Any], float], pair: Pair
) -> tuple[float | None, float | None]:
    try:
        return function(pair.first, pair.prompt), function(pair.second, pair.prompt)
    except MetricError:
        raise
    except ValueError:
        return None, None


def _summary(values: Values, metric: Metric) -> Summary:
    """The summary of the pairs that have a value, its worst counted among all pairs."""
    found = summarise(_known(values), metric.higher_is_better)
    places = [index for index, value in enumerate(values) if value is not None]
    return replace(found, worst_at=places[found.worst_at])


def _known(values: Values) -> list[float]:
    return [value for value in values if value is not None]


def _faults(pairs: Sequence[Pair]) -> tuple[Fault, ...]:
    drawings = [(index, second) for index in range(len(pairs)) for second in (False, True)]
    found = []
    for index, second in drawings:
        reason = _fault(pairs[index].second if second else pairs[index].first)
        if reason is not None:
            found.append(Fault(index, second, reason))
    return tuple(found)


def _fault(drawing: Drawing) -> str | None:
    reason = fault(drawing.pixels)
    if reason is None and drawing.latents is not None and not drawing.latents.isfinite().all():
        return "has NaN or Inf in its latents"
    return reason
