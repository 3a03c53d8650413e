"""Calibration: which steps to compute in full, or in both branches, and how far pictures are then.

A few generations are made in full, and the inner products of what would be skipped are recorded: of
features, and of the difference between guidance's branches. From them follow the best schedules and
forecasts (see `step_schedules`); each is then drawn with, and the distance to the full pictures
measured, of clips over all frames: what a budget promises has been seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..accelerate import accelerated, report
from ..errors import PassError
from ..passes.budget import guidance_scale_of
from ..passes.calibration import Calibration, identity_of
from ..passes.calibration_tables import Row, Table
from ..passes.guidance_state import GUIDED
from ..passes.step_cache import StepCache
from ..passes.step_cache_paths import CACHE
from ..passes.step_cache_schedule import Schedule
from .distances import distances
from .forward_seconds import ForwardSeconds
from .guided_steps import ONE_BRANCH, guided_schedules
from .guided_steps import SHARES as GUIDED_SHARES
from .step_schedules import Matrix, Points, best_of_orders
from .whole_steps import SHARES as WHOLE_SHARES
from .whole_steps import measure_whole

if TYPE_CHECKING:
    import torch

    from ..passes.sampler_times import SamplerTimes
    from ..quality.metrics import Drawing

Draw = Callable[[str], list["Drawing"]]
"""Draws the same prompts from the same noise each time; its argument names what with."""
SHARES = (0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)
"""The shares of full steps that are tried."""
INTERVALS = (2, 3, 4, 5)
"""Full steps at equal distances, which are tried too: errors of late steps may count more."""
_SAMPLE = 16384
"""So many values of a tensor stand for all of it."""


def calibrate(
    pipe: Any,
    draw: Draw,
    settings: StepCache | None = None,
    shares: Sequence[float] = SHARES,
    whole_shares: Sequence[float] = WHOLE_SHARES,
    guided_shares: Sequence[float] = GUIDED_SHARES,
    guidance_alone: bool = False,
) -> Calibration:
    """Measure schedules of full steps for what `draw` makes with `pipe`, which has no acceleration.

    Of `settings`, the pass, `depth`, `first` and `last` hold. The shares are those of full steps
    beside which the deep part of the denoiser is left out, beside which all of it is, and beside
    which one branch of guidance is. With `guidance_alone` there are no tables of step_cache's.
    Raises `PassError` where the pass refuses, and where the denoiser does not run at every step.
    """
    settings = settings or StepCache()
    found = _record(pipe, draw, settings)
    trial = Trial(pipe, draw, settings, found.full)
    identity = identity_of(found.model, pipe.scheduler, settings.cut)
    guided = _guided_tables(pipe, found, trial, guided_shares)
    if guidance_alone:
        if not guided:
            raise PassError("Guidance can't be calibrated: this pipe computes no second branch.")
        return Calibration(identity, (), guided)
    table = _table(pipe, found, trial, shares, whole_shares)
    return Calibration(identity, (table,), guided)


def _table(
    pipe: Any,
    found: Recorded,
    trial: Trial,
    shares: Sequence[float],
    whole_shares: Sequence[float],
) -> Table:
    """step_cache's rows; raises `PassError` where there are none."""
    products, points = found.products, found.points
    tried = _schedules(products, shares, points)
    rows = [trial.measure(steps, order, "deep", variable) for steps, order, variable in tried]
    for_features = [each for each, *_ in tried]
    rows += measure_whole(trial.measure, len(products), for_features, whole_shares, tuple(points))
    finite = _finite(rows)
    if not finite:
        raise PassError("No schedule was measured: draw with more steps, at least 3.")
    shallow = round(trial.seconds.shallow, 3)
    return Table(len(products), guidance_scale_of(pipe), len(found.full), finite, shallow)


def _guided_tables(
    pipe: Any, found: Recorded, trial: Trial, shares: Sequence[float]
) -> tuple[Table, ...]:
    """Guidance's rows in a table; none where the second branch is not computed at every step."""
    steps = len(found.products)
    if len(found.differences) != steps:
        return ()
    tried = guided_schedules(found.differences, shares, found.points)
    rows = _finite([trial.measure_guided(*each) for each in tried])
    table = Table(steps, guidance_scale_of(pipe), len(found.full), rows, ONE_BRANCH)
    return (table,) if rows else ()


def _finite(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(row for row in rows if math.isfinite(row.psnr))


class Products:
    """Inner products between a tensor's values at any two steps, over all tensors that are noted.

    Each tensor of each generation counts the same, whatever its size.
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, dict[int, torch.Tensor]] = {}
        self._sum: torch.Tensor | None = None

    def note(self, key: Hashable, step: int, value: torch.Tensor) -> None:
        """Take a tensor's value at a step; an earlier step than before begins a generation."""
        values = self._values.setdefault(key, {})
        if values and step < max(values):
            self._add(values)
            values.clear()
        flat = value.flatten()
        values[step] = flat[:: max(1, flat.numel() // _SAMPLE)].double().cpu()

    def matrix(self) -> list[list[float]]:
        """The sum over all tensors, (steps, steps)."""
        for values in self._values.values():
            self._add(values)
        self._values.clear()
        found: list[list[float]] = [] if self._sum is None else self._sum.tolist()
        return found

    def _add(self, values: dict[int, torch.Tensor]) -> None:
        import torch

        if sorted(values) != list(range(len(values))):
            raise PassError("The denoiser does not run at every step: its steps can't be chosen.")
        stacked = torch.stack([values[step] for step in sorted(values)])
        products = stacked @ stacked.T
        products = products / products.trace().clamp(min=1e-30)
        if self._sum is not None and self._sum.shape != products.shape:
            raise PassError("The generations have unequal numbers of steps: draw them alike.")
        self._sum = products if self._sum is None else self._sum + products


@dataclass(frozen=True)
class Recorded:
    """The denoiser, the full drawings, and the inner products of what would have been skipped.

    `differences` are those of the branches' difference, empty where there is none; `points` is
    where the steps lie, by each variable that is worth a trial.
    """

    model: Any
    full: list[Drawing]
    products: Matrix
    differences: Matrix
    points: Points


def _record(pipe: Any, draw: Draw, settings: StepCache) -> Recorded:
    every = {**settings.cut, "interval": 1, "fewest_steps": 1}
    products, differences = Products(), Products()
    with accelerated(pipe, "none", step_cache=every, guidance={"stop": 1.0}):
        refused = report(pipe)["step_cache"].refused
        caches = list(_caches(pipe))
        if len(caches) != 1:
            reason = "; ".join(refused.values()) or "it takes one denoiser"
            raise PassError(f"step_cache can't be calibrated for this pipe: {reason}.")
        model, cache = caches[0]
        cache.recorder = products.note
        branches = model.__dict__.get(GUIDED)
        if branches is not None:
            branches.recorder = differences.note
        full = draw("every step full")
    matrix = products.matrix()
    points = _points(cache.choice.times, len(matrix))
    return Recorded(model, full, matrix, _matrix_of(differences), points)


def _matrix_of(differences: Products) -> Matrix:
    """The products, or nothing where the second branch is not computed at every step."""
    try:
        return differences.matrix()
    except PassError:
        return []


def _points(times: SamplerTimes, total: int) -> Points:
    return {each: times.points(total, each) or [] for each in times.variables(total)}


def _caches(pipe: Any) -> Iterator[tuple[Any, Any]]:
    for part in pipe.components.values():
        cache = getattr(part, "__dict__", {}).get(CACHE)
        if cache is not None:
            yield part, cache


def _schedules(
    products: Matrix, shares: Sequence[float], points: Points
) -> list[tuple[tuple[int, ...], int, str]]:
    """For each share of full steps the best schedule, its order and variable; and intervals."""
    total = len(products)
    chosen = best_of_orders(products, shares, points)
    for interval in INTERVALS:
        steps = tuple(sorted(Schedule(interval).choose(total).full))
        if len(steps) < total and (steps, 1, "step") not in chosen:
            chosen.append((steps, 1, "step"))
    return chosen


class Trial:
    """Drawings with schedules, beside the full ones; `seconds` of the forwards of all."""

    def __init__(self, pipe: Any, draw: Draw, settings: StepCache, full: Sequence[Drawing]) -> None:
        self.seconds = ForwardSeconds()
        self._pipe, self._draw, self._settings, self._full = pipe, draw, settings, full

    def measure(
        self, steps: tuple[int, ...], order: int, skip: str = "deep", variable: str = "step"
    ) -> Row:
        """Draw with a schedule, and compare with the full pictures."""
        options = {"steps": steps, "forecast": order, "fewest_steps": 1, "skip": skip}
        options["variable"] = variable
        with accelerated(self._pipe, "none", step_cache={**self._settings.cut, **options}):
            drawn = self._drawn(f"{len(steps)} full steps, skip {skip}", skip)
        return self._row(drawn, steps, order, skip, variable)

    def measure_guided(self, steps: tuple[int, ...], order: int, variable: str) -> Row:
        """Draw with both branches at some steps, and compare with the full pictures."""
        options = {"steps": steps, "forecast": order, "variable": variable, "fewest_steps": 1}
        with accelerated(self._pipe, "none", guidance=options):
            drawn = self._draw(f"{len(steps)} steps with both branches")
        return self._row(drawn, steps, order, "branch", variable)

    def _row(
        self, drawn: list[Drawing], steps: tuple[int, ...], order: int, skip: str, variable: str
    ) -> Row:
        return Row(steps, order, *distances(self._full, drawn), skip, variable)

    def _drawn(self, name: str, skip: str) -> list[Drawing]:
        if skip == "whole":
            return self._draw(name)
        with self.seconds.watching(*next(_caches(self._pipe))):
            return self._draw(name)
