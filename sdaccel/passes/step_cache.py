"""Deep features that hardly change from step to step, kept for some steps instead of recomputed.

A full step computes everything; a shallow one runs a UNet's outer layers or a transformer's first
and last blocks, and takes what the others would have done from the full steps before; or nothing
runs, and the denoiser's output itself is extrapolated. Which steps are full is known before a
generation begins, so nothing waits for the device, and full and shallow calls are two fixed
sequences of work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .base import Effect, Pass
from .budget import Calibrated, calibration_files, calibration_for, check_budget
from .compiled_region import Region
from .sampler_noise import adds_noise
from .sampler_times import Variable, check_variable
from .step_cache_paths import CACHE, TwoPaths
from .step_cache_schedule import Chooses, Schedule, step_list, whole_number
from .step_cache_state import FeatureCache
from .step_cache_transformer import skip_in_transformer, transformer_obstacle
from .step_cache_unet import is_unet, skip_in_unet, unet_obstacle
from .step_cache_whole import LeftOutWhole

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target

_CONTROLNETS = "diffusers.models.controlnets."


@dataclass(frozen=True)
class StepCache(Pass):
    """Compute the deep part of a UNet or a transformer, or all of a denoiser, at some steps only.

    What matters:
        interval: each `interval`-th step is full, and the last, and the first ones that a forecast
            needs.
        steps: the numbers of the full steps instead, from 0; beyond the largest all are full.
        skip: what the other steps leave out: "deep", or "whole" for all of any denoiser, its
            ControlNets included, which then cost next to nothing, and whose output is forecast.
        budget: the least mean PSNR against stock's pictures, in dB, that is to be kept: takes full
            steps, forecast and skip from what `sdaccel calibrate` has measured for this model,
            scheduler, number of steps and guidance scale. The embedded models come calibrated.
        otherwise: what a budget does where nothing was measured: "refuse", or "interval" for the
            schedule of `interval`, which keeps no budget; the report says so.
        forecast: how what is skipped follows from the full steps before: 0 repeats the last one,
            1 and 2 extrapolate from the last two or three.
        variable: what the forecasts are polynomials in: the number of the "step", or the sampler's
            own time, "sigma" (which DDIM, Euler and flow matching integrate over), "log_snr"
            (DPM-Solvers, UniPC) or "angle" (DDIM with v-prediction, and where a schedule begins
            with noise alone). A budget takes what did best when it was calibrated.
    For tinkering:
        depth: how many layers of a UNet run on a shallow step, counted from its output.
        first, last: how many of a transformer's blocks do at either end. Of shapes-dit's 10 blocks
            the last is worth 3.6 dB at an interval of 2, the first 0.7 (51.5, 48.5, neither 47.9).
        fewest_steps: below so many steps nothing is skipped, without a budget.
        calibration: the file that was measured into; None for the user's cache, then the package.
    """

    interval: int = 3
    steps: Sequence[int] | None = None
    skip: Literal["deep", "whole"] = "deep"
    budget: float | None = None
    otherwise: Literal["refuse", "interval"] = "refuse"
    forecast: int = 1
    variable: Variable = "step"
    depth: int = 1
    first: int = 0
    last: int = 1
    fewest_steps: int = 10
    calibration: str | None = None

    name: ClassVar[str] = "step_cache"
    summary: ClassVar[str] = "deep features kept for some steps"
    effect: ClassVar[Effect] = Effect.APPROXIMATE
    order: ClassVar[int] = 97

    def __post_init__(self) -> None:
        for name, least in (("interval", 1), ("depth", 1), ("first", 0), ("last", 0)):
            whole_number(name, getattr(self, name), least)
        whole_number("fewest_steps", self.fewest_steps, 1)
        if self.forecast not in (0, 1, 2):
            raise ValueError(f"forecast is 0, 1 or 2, not {self.forecast!r}")
        if self.skip not in ("deep", "whole"):
            raise ValueError(f"skip is 'deep' or 'whole', not {self.skip!r}")
        check_variable(self.variable)
        if self.otherwise not in ("refuse", "interval"):
            raise ValueError(f"otherwise is 'refuse' or 'interval', not {self.otherwise!r}")
        object.__setattr__(self, "steps", step_list(self.steps))
        if self.budget is not None:
            check_budget(self.budget)
            if self.steps is not None:
                raise ValueError("give either budget or steps: each chooses the full steps")

    @property
    def cut(self) -> dict[str, int]:
        """Where full and shallow calls part: the options that a calibration depends on."""
        return {"depth": self.depth, "first": self.first, "last": self.last}

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        sessions = not self._skips_deep
        for component, model in target.each(record, "denoiser", weights=False, sessions=sessions):
            reason = self._obstacle(component, model, target)
            schedule = None
            if reason is None:
                schedule, reason = self._schedule(component, target, record)
            if schedule is None:
                record.refuse(component.name, str(reason))
                continue
            with patch.scope(component.module):
                cache = FeatureCache(component.name, target.clock, schedule, record)
                skipped = self._skip(component, model, cache, patch)
                _watch(cache, component, target, patch)
            record.changed[f"{component.name} modules skipped at times"] = skipped

    def _schedule(
        self, component: Component, target: Target, record: PassRecord
    ) -> tuple[Chooses | None, str]:
        """What chooses the full steps, or None and why there is none."""
        steps = None if self.steps is None else tuple(self.steps)
        whole, order = self.skip == "whole", self.forecast
        if whole and order and adds_noise(getattr(target.pipe, "scheduler", None)):
            record.note(f"{component.name}: forecast is 0, for the sampler adds noise at each step")
            order = 0
        fixed = Schedule(self.interval, steps, self.fewest_steps, order, whole, self.variable)
        if self.budget is None:
            return fixed, ""
        otherwise = fixed if self.otherwise == "interval" else None
        try:
            found = calibration_for(target.pipe, component.module, self.cut, self.calibration)
        except ValueError as error:
            if otherwise is not None:
                record.note(f"{component.name}: no budget is kept, {error}")
            return otherwise, str(error)
        chosen = Calibrated(target.pipe, found, float(self.budget), found.tables, otherwise)
        return (None, chosen.beyond) if chosen.beyond else (chosen, "")

    def calibrations(self, target: Target) -> list[tuple[Path, dict[str, Any]]]:
        return calibration_files(target, self.cut, self.calibration)

    def _obstacle(self, component: Component, model: Any, target: Target) -> str | None:
        """Why nothing can be skipped in a denoiser, in half a sentence, or None."""
        import torch

        if self._skips_deep and type(model).__module__.startswith(_CONTROLNETS):
            return "computed at every step, though shallow ones read its outer residuals alone"
        if getattr(model, "_cache_config", None) is not None:
            return "diffusers' own cache is enabled: call its disable_cache() first"
        if isinstance(model, torch._dynamo.OptimizedModule) or any(
            each._compiled_call_impl is not None for each in model.modules()
        ):
            return "compiled by the user: load it uncompiled and let the pass compile do it"
        if component.obstacle == "offloaded in groups":
            return "offloaded in groups, each of which loads the next"
        if not self._skips_deep:
            return None
        if is_unet(model):
            return unet_obstacle(model, self.depth)
        return transformer_obstacle(model, self.first, self.last)

    @property
    def _skips_deep(self) -> bool:
        """Whether some generation may run a part of a denoiser."""
        return self.skip == "deep" or self.budget is not None

    def _skip(self, component: Component, model: Any, cache: FeatureCache, patch: Patch) -> int:
        """Let skipped steps leave out what they may; returns how many modules they leave out."""
        entry, skipped = component.entry, 1
        if self._skips_deep:
            skipped = self._skip_deep(model, cache, patch)
            region = entry.__dict__.get("forward")
            if isinstance(region, Region):
                patch.set(entry, "forward", TwoPaths(region, cache))
        if self.skip == "whole" or self.budget is not None:
            patch.set(entry, "forward", LeftOutWhole(entry, cache))
        return skipped

    def _skip_deep(self, model: Any, cache: FeatureCache, patch: Patch) -> int:
        if is_unet(model):
            return skip_in_unet(model, self.depth, cache, patch)
        return skip_in_transformer(model, self.first, self.last, cache, patch)


def _watch(cache: FeatureCache, component: Component, target: Target, patch: Patch) -> None:
    """Tell a cache of its denoiser's calls, and of a generation's beginning and end."""
    entry, clock = component.entry, target.clock
    patch.set(entry, CACHE, cache)
    # first of all: others ask it whether the forward is left out
    before = entry.register_forward_pre_hook(cache.begin, with_kwargs=True, prepend=True)
    patch.add_handle(before)
    patch.add_handle(entry.register_forward_hook(lambda *_: cache.end()))
    for listeners, listener in (
        (clock.listeners, cache.reset),
        (clock.listeners, cache.choice.times.read),
        (clock.end_listeners, cache.reset),
    ):
        patch.on_undo(_remover(listeners, listener))
        listeners.append(listener)


def _remover(listeners: list[Any], listener: Any) -> Any:
    return lambda: listeners.remove(listener)
