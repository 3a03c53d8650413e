"""Guidance whose unconditional branch is not computed at every step.

The two branches of classifier-free guidance differ by little that changes slowly late in a
generation: there the conditional one alone is computed, and the difference kept. Half of a batch is
left out, or the second of two calls. With `hold` off such steps are not guided at all, which is
guidance in a limited interval (Kynkäänniemi et al. 2024). At which steps both are computed is known
before a generation begins; with a budget it follows from what was measured of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Effect, Pass
from .budget import (
    Calibrated,
    budgets_together,
    calibration_files,
    calibration_for,
    check_budget,
)
from .guidance_kind import CONTROLNETS, guidance_of
from .guidance_state import GUIDED, Branches, GuidedSteps, OneCall, TwoCalls
from .sampler_times import Variable, check_variable
from .step_cache import StepCache
from .step_cache_paths import CACHE
from .step_cache_schedule import Chooses, step_list, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target


@dataclass(frozen=True)
class GuidanceReuse(Pass):
    """Compute the unconditional branch of guidance at some steps only.

    What matters:
        stop: the share of the steps, from the first, in which both branches are computed.
        every: after that each `every`-th step computes both again; None never.
        steps: the numbers of the steps that compute both instead, from 0; so do all beyond.
        hold: guide the others by the difference kept; False leaves them unguided.
        budget: the least mean PSNR against stock's pictures, in dB, that is to be kept: takes the
            steps and the forecast from what `sdaccel calibrate` has measured for this model,
            scheduler, number of steps and guidance scale. Beside a budget of step_cache's the mean
            squares of both errors add: two of 34 dB are expected to make 31. step_cache then
            begins anew whenever a branch comes or goes, and alone it may skip more.
    For tinkering:
        start: before this share of the steps there is no guidance.
        forecast: 0 repeats the last difference, 1 and 2 extrapolate from the last two or three.
        variable: what the forecast is a polynomial in, as step_cache has it.
        fewest_steps: in fewer steps both branches are always computed, without a budget.
        calibration: the file that was measured into; None for the user's cache, then the package.
    """

    stop: float = 0.6
    every: int | None = 4
    steps: Sequence[int] | None = None
    hold: bool = True
    budget: float | None = None
    start: float = 0.0
    forecast: int = 0
    variable: Variable = "step"
    fewest_steps: int = 10
    calibration: str | None = None

    name: ClassVar[str] = "guidance"
    summary: ClassVar[str] = "the unconditional branch computed at some steps"
    effect: ClassVar[Effect] = Effect.APPROXIMATE
    order: ClassVar[int] = 98

    def __post_init__(self) -> None:
        for name in ("start", "stop"):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 <= value <= 1
            ):
                raise ValueError(f"{name} is a share of the steps from 0 to 1, not {value!r}")
        if self.start >= self.stop:
            raise ValueError(f"start ({self.start}) has to lie before stop ({self.stop})")
        if not isinstance(self.hold, bool):
            raise TypeError(f"hold is True or False, not {self.hold!r}")
        if self.every is not None:
            whole_number("every", self.every, 2)
        whole_number("fewest_steps", self.fewest_steps, 1)
        if self.forecast not in (0, 1, 2):
            raise ValueError(f"forecast is 0, 1 or 2, not {self.forecast!r}")
        check_variable(self.variable)
        object.__setattr__(self, "steps", step_list(self.steps))
        if self.budget is not None:
            check_budget(self.budget)
        chosen = [self.budget is not None, self.steps is not None, self.start > 0 or not self.hold]
        if sum(chosen) > 1:
            raise ValueError("give one of budget, steps, and start or hold: each chooses the steps")

    def refusal(self, target: Target) -> str | None:
        kind: Any = type(target.pipe)
        if guidance_of(kind) is None:
            return f"{kind.__name__}'s guidance is none, or not `uncond + scale * (cond - uncond)`"
        return None

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        kind: Any = type(target.pipe)
        guidance = guidance_of(kind)
        for component, model in target.each(record, "denoiser", weights=False):
            if type(model).__module__.startswith(CONTROLNETS):
                record.refuse(component.name, "a ControlNet computes both branches at every step")
                continue
            try:
                steps = self._steps(component, target, record)
            except ValueError as error:
                record.refuse(component.name, str(error))
                continue
            branches = Branches(component.name, target.clock, steps, record)
            with patch.scope(component.module):
                patch.set(component.entry, GUIDED, branches)
                if guidance is not None and guidance.batched:
                    _halve(branches, component, target, patch)
                else:
                    _leave_out(branches, component, target, patch)
                _listen(target.clock.listeners, branches.choice.times.read, patch)
            record.changed[f"{component.name} guided"] = 1

    def _steps(self, component: Component, target: Target, record: PassRecord) -> Chooses:
        """What chooses the steps; `ValueError` with a sentence where a budget can't be kept."""
        if self.budget is None:
            steps = None if self.steps is None else tuple(self.steps)
            shares = self.start, self.stop, self.every, self.hold, self.fewest_steps
            return GuidedSteps(*shares, self.forecast, self.variable, steps)
        cut, file = StepCache().cut, self.calibration
        found = calibration_for(target.pipe, component.module, cut, file, "guidance")
        chosen = Calibrated(target.pipe, found, float(self.budget), found.guidance)
        if chosen.beyond:
            raise ValueError(chosen.beyond)
        cache = component.entry.__dict__.get(CACHE)
        other = getattr(cache and cache.choice.schedule, "budget", None)
        if other is not None:
            together = budgets_together([chosen.budget, other])
            record.note(
                f"{component.name}: {together:.1f} dB are expected beside step_cache's budget, for "
                "the mean squares of both errors add; step_cache begins anew whenever a branch "
                "comes or goes, and alone it may be faster"
            )
        return chosen

    def calibrations(self, target: Target) -> list[tuple[Path, dict[str, Any]]]:
        return calibration_files(target, StepCache().cut, self.calibration)


def _halve(branches: Branches, component: Component, target: Target, patch: Patch) -> None:
    """Hooks outside of all others: these see the half that is computed, and nothing else."""
    entry, hooks, clock = component.entry, OneCall(branches), target.clock

    def before(host: Any, args: Any, kwargs: Any) -> Any:
        clock.locate(kwargs.get("timestep", args[1] if len(args) > 1 else None))
        batch = _batch(args, kwargs)
        return hooks.before(host, args, kwargs, batch) if _is_guided(target, batch) else None

    handle = entry.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    patch.add_handle(handle)
    patch.add_handle(entry.register_forward_hook(lambda *called: hooks.after(called[-1])))
    _forget(branches.reset, target, patch)
    _forget(hooks.reset, target, patch)


def _leave_out(branches: Branches, component: Component, target: Target, patch: Patch) -> None:
    """A forward outside of all others, which need not be called at all."""
    clock, entry = target.clock, component.entry
    forward = TwoCalls(entry, branches, partial(_calls, clock, component.name))
    patch.set(entry, "forward", forward)
    _forget(branches.reset, target, patch)
    _forget(forward.reset, target, patch)


def _calls(clock: Clock, name: str) -> int:
    return clock.step_calls[name]


def _batch(args: Any, kwargs: Any) -> int:
    """The size of the batch, which is the latents', wherever they are given."""
    latents = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
    return len(latents) if latents is not None else 0


def _is_guided(target: Target, batch: int) -> bool:
    """Whether a batch holds both branches: the pipe says so, or it is twice that of the latents."""
    told = getattr(target.pipe, "do_classifier_free_guidance", None)
    if told is not None:
        return bool(told) and batch % 2 == 0
    latents = target.clock.last_sample
    return latents is not None and 2 * len(latents) == batch


def _forget(reset: Callable[[], None], target: Target, patch: Patch) -> None:
    for listeners in (target.clock.listeners, target.clock.end_listeners):
        _listen(listeners, reset, patch)


def _listen(
    listeners: list[Callable[[], None]], listener: Callable[[], None], patch: Patch
) -> None:
    patch.on_undo(partial(listeners.remove, listener))
    listeners.append(listener)
