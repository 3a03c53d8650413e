"""Controls for whatever is approximate: stock in so few steps that it takes no longer.

A speed-up that skips work has to draw better pictures than the same time spent on fewer steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import BenchmarkError, Skip
from .rungs import Opened, Rung

if TYPE_CHECKING:
    from .rows import Row
    from .workloads import Workload

PREFIX = "fewer-steps-"
BETTER = "-dpm++"
"""Behind it: with DPM++ 2M (Lu and others 2022), which needs fewer steps than most samplers."""
_NAME = re.compile(rf"{PREFIX}(\d+)({re.escape(BETTER)})?")
_WORTHWHILE = 1.05


def fewer_steps(name: str) -> Rung | None:
    """The rung "fewer-steps-12", or "fewer-steps-12-dpm++"; None for another name.

    Raises `BenchmarkError` for no steps.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    steps, better = int(match[1]), match[2] is not None
    if steps < 1:
        raise BenchmarkError(f"'{name}' draws nothing: it takes at least one step.")

    @contextmanager
    def opened(pipe: Any, workload: Workload) -> Iterator[Opened]:
        if workload.steps is None or workload.with_steps is None:
            raise Skip("One forward has no steps to leave out.")
        if steps >= workload.steps:
            raise Skip(f"These are no fewer steps than the {workload.steps} of stock.")
        if better:
            pipe.scheduler = _better(pipe.scheduler)
        yield Opened(pipe, "approximate", workload=workload.with_steps(steps))

    summary = "stock, in fewer steps" + (", by a better sampler" if better else "")
    return Rung(name, "control", summary, opened)


def _better(scheduler: Any) -> Any:
    """DPM++ 2M on the same noise schedule; raises `Skip` for a scheduler of another kind."""
    from diffusers import DPMSolverMultistepScheduler as Better

    names = {each.__name__ for each in scheduler.compatibles}
    if Better.__name__ not in names or "Flow" in type(scheduler).__name__:
        raise Skip(f"DPM++ 2M can't take the place of {type(scheduler).__name__}.")
    if isinstance(scheduler, Better):
        raise Skip("Stock draws with DPM++ 2M itself.")
    return Better.from_config(scheduler.config)


def missing(rows: Sequence[Row], workload: Workload) -> list[Rung]:
    """The controls that these rows lack: stock in the time of each approximate rung."""
    if workload.steps is None:
        return []
    there = {row.rung for row in rows}
    found: dict[str, Rung] = {}
    for row in rows:
        if row.effect == "approximate" and row.kind != "control" and row.status == "ok":
            name = _matching(row, workload.steps)
            control = fewer_steps(name) if name and name not in there else None
            if control is not None:
                found[name or ""] = control
    return list(found.values())


def _matching(row: Row, steps: int) -> str | None:
    """The control that takes about the time of a rung; None for one that is hardly faster."""
    if row.speedup is None or row.speedup < _WORTHWHILE:
        return None
    fewer = max(1, round(steps / row.speedup))
    return f"{PREFIX}{fewer}" if fewer < steps else None
