"""Controls for whatever is approximate: stock in so few steps that it takes no longer.

A speed-up that skips work has to draw better pictures than the same time spent on fewer steps, in
the dtype that it computes in itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import Skip
from .rungs import IN_FP32, STAND_IN, Opened, Rung, rung
from .settings import Setting, parse

if TYPE_CHECKING:
    from .rows import Row
    from .workloads import Workload

FAMILY = "fewer-steps"
BETTER = {"dpm++": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}
"""Behind it, samplers that need fewer steps than most: DPM++ 2M (Lu and others 2022), and UniPC
(Zhao and others 2023), which can take the place of flow matching's own too."""
SETTINGS = {FAMILY: Setting("number of steps", "12", whole=True, words=tuple(BETTER))}
_WORTHWHILE = 1.05


def fewer_steps(name: str) -> Rung | None:
    """The rung "fewer-steps-12", or "fewer-steps-12-dpm++" and the like; None for another name.

    Raises `BenchmarkError` for no steps, and for a sampler that is none of `BETTER`.
    """
    named = parse(name, SETTINGS)
    if named is None:
        return None
    steps, sampler = int(named.value), BETTER.get(named.word)

    @contextmanager
    def opened(pipe: Any, workload: Workload) -> Iterator[Opened]:
        if workload.steps is None or workload.with_steps is None:
            raise Skip("One forward has no steps to leave out.")
        if steps >= workload.steps:
            raise Skip(f"These are no fewer steps than the {workload.steps} of stock.")
        if sampler:
            pipe.scheduler = better(pipe.scheduler, sampler)
        yield Opened(pipe, "approximate", workload=workload.with_steps(steps))

    summary = "stock, in fewer steps" + (", by a better sampler" if sampler else "")
    return Rung(name, "control", summary, opened, "anywhere")


def better(scheduler: Any, name: str) -> Any:
    """That sampler on the same noise schedule; raises `Skip` where it doesn't fit."""
    import diffusers

    before, wanted = type(scheduler).__name__, getattr(diffusers, name)
    if before == name:
        raise Skip(f"Stock draws with {name} itself.")
    if before == "FlowMatchEulerDiscreteScheduler" and takes_sigmas(wanted):
        shift = scheduler.config.shift
        changes = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
        return wanted.from_config(scheduler.config, **changes, flow_shift=shift)
    if name not in {each.__name__ for each in scheduler.compatibles} or "Flow" in before:
        raise Skip(f"{name} can't take the place of {before}.")
    return wanted.from_config(scheduler.config)


def takes_sigmas(scheduler: Any) -> bool:
    """Whether pipelines for flows can give a scheduler's class the noise levels of its steps."""
    return "sigmas" in inspect.signature(scheduler.set_timesteps).parameters


def missing(rows: Sequence[Row], workload: Workload) -> list[Rung]:
    """The controls that these rows lack: stock in the time of each approximate plan, in its dtype.

    How fast stock is in 16 bit has to be known before. Approximate peers stand beside them, and get
    none of their own.
    """
    there = {row.rung: row for row in rows}
    plans = [
        row
        for row in rows
        if row.effect == "approximate" and row.kind == "plan" and row.status == "ok"
    ]
    if workload.steps is None or not plans:
        return []
    if STAND_IN not in there:
        return [rung(STAND_IN)]
    names = dict.fromkeys(_matching(row, there[STAND_IN], workload.steps) for row in plans)
    return [rung(name) for name in names if name and name not in there]


def _matching(row: Row, narrow: Row, steps: int) -> str | None:
    """The control that takes about the time of a rung; None for one that is hardly faster.

    `narrow` is stock in 16 bit, which is not ok where that is no faster.
    """
    wide = narrow.status == "ok" and row.dtype == "float32"
    stock = narrow.speedup if narrow.status == "ok" and not wide else None
    faster = (row.speedup or 0.0) / (stock or 1.0)
    if faster < _WORTHWHILE:
        return None
    fewer = max(1, round(steps / faster))
    return f"{FAMILY}-{fewer}{IN_FP32 if wide else ''}" if fewer < steps else None
