"""accelerate, restore, accelerated, report: apply a plan to a pipe, take it back, tell about it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from . import clock as clocks
from . import guard
from .errors import PassError, SdaccelWarning
from .passes import Effect, Pass
from .patch import Patch
from .plan import Plan
from .report import PassRecord, Report
from .sharing import hold, release
from .target import Target

Pipe = TypeVar("Pipe")
_STATE = "_sdaccel"


def accelerate(
    pipe: Pipe,
    plan: Plan | str | Path | None = "lossless",
    *,
    strict: bool = False,
    **overrides: bool | Mapping[str, Any],
) -> Pipe:
    """Apply a plan to a diffusers pipeline, in place, and return the same pipe.

    Args:
        pipe: any diffusers pipeline with a UNet or a transformer.
        plan: a name ("lossless", "fast", "eager"), an expression ("lossless+precision"), a `Plan`,
            or the path of a plan in JSON. None takes any acceleration away.
        strict: raise where a pass refuses, instead of noting it in the report.
        **overrides: a pass by name: False leaves it out, True adds it, a mapping sets its options.

    The same plan again does nothing, another plan takes the place of the first. Raises `PlanError`,
    `TargetError` or `PassError`, and then leaves the pipe as it was.
    """
    chosen = Plan.of(plan).override(**overrides)
    target = Target.of(pipe)
    before = _acceleration_of(pipe)
    if before is not None and before.plan == chosen and before.covers(target):
        return pipe
    _let_go(before)
    try:
        if chosen.passes:
            _apply(chosen, target, strict)
    except BaseException:
        if before is not None:
            _apply(before.plan, Target.of(pipe), strict=False)
        raise
    return pipe


def restore(pipe: Pipe) -> Pipe:
    """Take an acceleration back, bit for bit, and return the same pipe; without one, do nothing.

    A component that another accelerated pipe still uses stays as it is until that pipe is restored
    too; a warning names it.
    """
    kept = _let_go(_acceleration_of(pipe))
    if kept:
        warnings.warn(
            f"{', '.join(kept)} stay accelerated: another accelerated pipe shares them. "
            "Restore that pipe as well.",
            SdaccelWarning,
            stacklevel=2,
        )
    return pipe


@contextmanager
def accelerated(
    pipe: Pipe,
    plan: Plan | str | Path | None = "lossless",
    *,
    strict: bool = False,
    **overrides: bool | Mapping[str, Any],
) -> Iterator[Pipe]:
    """Accelerate inside a `with` block; afterwards the pipe has the plan it had before, or none."""
    before = _acceleration_of(pipe)
    accelerate(pipe, plan, strict=strict, **overrides)
    try:
        yield pipe
    finally:
        if before is None:
            restore(pipe)
        else:
            accelerate(pipe, before.plan)


def report(pipe: object) -> Report:
    """What was applied to a pipe, what was refused and why, and what has really run since."""
    acceleration = _acceleration_of(pipe)
    if acceleration is None:
        return Report(type(pipe).__name__, "none", "", [], Report.no_calls(), 0, accelerated=False)
    return acceleration.report()


def plan_of(pipe: object) -> Plan | None:
    """The plan that a pipe is accelerated by, None where it is not."""
    acceleration = _acceleration_of(pipe)
    return None if acceleration is None else acceleration.plan


@dataclass
class Acceleration:
    """What `accelerate` left on one pipe.

    `incomplete` when a pass of the plan has yet to see something that was put in later.
    """

    plan: Plan
    target: Target
    patch: Patch
    device: str
    records: list[PassRecord] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    incomplete: bool = False

    def covers(self, target: Target) -> bool:
        """Whether the pipe still consists of the same objects, on the same device."""
        if self.incomplete:
            return False
        return _parts(self.target) == _parts(target) and self.device == str(target.device)

    def report(self) -> Report:
        """A snapshot for the user."""
        clock, target = self.target.clock, self.target
        return Report(
            pipeline=type(target.pipe).__name__,
            plan=self.plan.name,
            device=str(target.device),
            passes=list(self.records),
            calls=clock.calls.copy(),
            generations=clock.generation,
            events=list(self.events),
        )

    def run(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of the pipe, watched: see `guard`."""
        pipe = self.target.pipe
        guard.check_prompt(pipe, args, kwargs)
        if str(self.target.device) != self.device:
            events = [*self.events, f"moved to {self.target.device}: the plan was applied anew"]
            return self._succeed(self.plan, events, args, kwargs)
        self._notice_replacements()
        doubtful = self._doubtful()
        randomness = guard.Randomness(pipe, args, kwargs) if doubtful else None
        result, finite = self._watched(call, args, kwargs)
        if finite:
            return result
        if randomness is None:
            self._tell("A generation ended in NaN or Inf, and only exact passes are applied.")
            return result
        self._tell(
            f"A generation ended in NaN or Inf: it runs again without {', '.join(doubtful)}."
        )
        randomness.rewind()
        return self._succeed(self.plan.without(*doubtful), self.events, args, kwargs)

    def _doubtful(self) -> list[str]:
        """The passes that a NaN may come from."""
        retried = {each.name for each in self.plan.passes if each.retried}
        applied = [record for record in self.records if record.applied]
        exact = Effect.EXACT.value
        return [each.name for each in applied if each.effect != exact or each.name in retried]

    def _succeed(
        self, plan: Plan, events: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Put another acceleration in the place of this one, and let it make the call."""
        pipe = self.target.pipe
        accelerate(pipe, plan)
        if (successor := _acceleration_of(pipe)) is not None:
            successor.events[:0] = events
        return type(pipe).__call__(pipe, *args, **kwargs)

    def _watched(
        self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, bool]:
        clock = self.target.clock
        clock.running = True
        try:
            result = call(self.target.pipe, *args, **kwargs)
            return result, guard.ended_finite(clock)
        finally:
            clock.forget()

    def _notice_replacements(self) -> None:
        """A scheduler put in by the user drives the clock from now on, but runs as it is.

        A model is only reported.
        """
        now = Target.of(self.target.pipe)
        for scheduler in now.schedulers:
            if all(scheduler is not each for each in self.target.schedulers):
                clocks.attach_scheduler(self.target.clock, scheduler, self.patch)
                hold(scheduler, now.pipe, self.plan.name, self.patch.take(scheduler))
                if "schedulers" in self.plan:
                    self.incomplete = True
                    self._tell(
                        "A scheduler was put in after accelerate and makes stock's own steps: "
                        "call accelerate(pipe) again."
                    )
        self.target = replace(self.target, schedulers=now.schedulers)
        before = {component.name: component.module for component in self.target.components}
        for component in now.components:
            if before.get(component.name) is not component.module:
                self._tell(
                    f"{component.name} was put in after accelerate and runs unaccelerated: "
                    "call accelerate(pipe) again."
                )

    def _tell(self, sentence: str) -> None:
        if sentence not in self.events:
            self.events.append(sentence)
            warnings.warn(sentence, SdaccelWarning, stacklevel=4)


def _acceleration_of(pipe: object) -> Acceleration | None:
    found: Acceleration | None = getattr(pipe, "__dict__", {}).get(_STATE)
    return found


def _parts(target: Target) -> list[int]:
    modules = [id(component.module) for component in target.components]
    return modules + [id(scheduler) for scheduler in target.schedulers]


def _apply(plan: Plan, target: Target, strict: bool) -> None:
    """Apply all passes or none."""
    acceleration = Acceleration(plan, target, Patch(), str(target.device))
    patch = acceleration.patch
    for part in _owners(target):
        release(part, None)
    try:
        for each in plan.passes:
            acceleration.records.append(_apply_one(each, target, patch, strict))
        _attach(target, patch)
    except BaseException:
        patch.undo()
        raise
    for part in _owners(target):
        hold(part, target.pipe, plan.name, patch.take(part))
    object.__setattr__(target.pipe, _STATE, acceleration)


def _apply_one(each: Pass, target: Target, patch: Patch, strict: bool) -> PassRecord:
    record = PassRecord(each.name, each.effect.value, each.summary, each.options)
    reason = each.refusal(target)
    if reason is not None:
        record.refuse("pipe", reason)
    else:
        start = time.perf_counter()
        try:
            each.apply(target, patch, record)
        except Exception as error:
            raise PassError(
                f"The pass {each.name} failed: {error}. The pipe is as it was."
            ) from error
        record.applied = bool(record.changed)
        record.seconds["apply"] = time.perf_counter() - start
    if strict and record.refused:
        name, reason = next(iter(record.refused.items()))
        raise PassError(
            f"The pass {each.name} refused ({name}: {reason}); leave it out of the plan."
        )
    return record


def _attach(target: Target, patch: Patch) -> None:
    """Drive the clock from the pipe's own parts, and watch its calls."""
    for scheduler in target.schedulers:
        clocks.attach_scheduler(target.clock, scheduler, patch)
    for component in target.components:
        clocks.attach_module(target.clock, component, patch)
        if component.kind == "vae":
            with patch.scope(component.module):
                guard.watch(target.clock, component.entry, patch)
    stock: Any = type(target.pipe)
    patch.set_class(target.pipe, guard.guarded(stock))


def _owners(target: Target) -> list[Any]:
    return [component.module for component in target.components] + list(target.schedulers)


def _let_go(acceleration: Acceleration | None) -> list[str]:
    """Undo an acceleration; returns the components that another pipe keeps accelerated."""
    if acceleration is None:
        return []
    target = acceleration.target
    object.__delattr__(target.pipe, _STATE)
    acceleration.patch.undo()
    names = [component.name for component in target.components]
    kept = [bool(release(part, target.pipe)) for part in _owners(target)]
    return [name for name, still in zip(names, kept, strict=False) if still]
