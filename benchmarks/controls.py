"""Controls for whatever is approximate: stock in so few steps that it takes no longer.

A speed-up that skips work has to draw better pictures than the same time spent on fewer steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import Skip
from .rungs import Opened, Rung
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
    return Rung(name, "control", summary, opened)


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
    """The controls that these rows lack: stock in the time of each approximate plan.

    Approximate peers stand beside them, and get none of their own.
    """
    if workload.steps is None:
        return []
    there = {row.rung for row in rows}
    found: dict[str, Rung] = {}
    for row in rows:
        if row.effect == "approximate" and row.kind == "plan" and row.status == "ok":
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
    return f"{FAMILY}-{fewer}" if fewer < steps else None
