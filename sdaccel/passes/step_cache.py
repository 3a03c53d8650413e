"""Deep features that hardly change from step to step, kept for some steps instead of recomputed.

A full step computes everything; a shallow one runs a UNet's outer layers or a transformer's first
and last blocks, and takes what the others would have done from the full steps before. Which steps
are full is known before a generation begins, so nothing waits for the device, and full and shallow
calls are two fixed sequences of work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Effect, Pass
from .step_cache_calibration import Calibrated, Calibration, default_path, identity_of
from .step_cache_schedule import Chooses, Schedule, step_list, whole_number
from .step_cache_state import FeatureCache
from .step_cache_transformer import skip_in_transformer, transformer_obstacle
from .step_cache_unet import is_unet, skip_in_unet, unet_obstacle

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target

CACHE = "_sdaccel_step_cache"
"""Under this name a denoiser has its cache."""
_CONTROLNETS = "diffusers.models.controlnets."


@dataclass(frozen=True)
class StepCache(Pass):
    """Compute the deep part of a UNet or a transformer at some steps only.

    What matters:
        interval: each `interval`-th step is full, and the last, and the first ones that a forecast
            needs.
        steps: the numbers of the full steps instead, from 0; beyond the largest all are full.
        budget: the least mean PSNR against stock's pictures, in dB, that is to be kept: takes full
            steps and forecast from what `sdaccel calibrate` has measured for this model, scheduler,
            number of steps and guidance scale.
        forecast: how what is skipped follows from the full steps before: 0 repeats the last one,
            1 and 2 extrapolate from the last two or three.
    For tinkering:
        depth: how many layers of a UNet run on a shallow step, counted from its output.
        first, last: how many of a transformer's blocks do at either end.
        fewest_steps: below so many steps nothing is skipped, without a budget.
        calibration: the file that was measured into; None for the user's cache.
    """

    interval: int = 3
    steps: Sequence[int] | None = None
    budget: float | None = None
    forecast: int = 1
    depth: int = 1
    first: int = 1
    last: int = 0
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
        object.__setattr__(self, "steps", step_list(self.steps))
        if self.budget is not None:
            _check_budget(self.budget, self.steps)

    @property
    def cut(self) -> dict[str, int]:
        """Where full and shallow calls part: the options that a calibration depends on."""
        return {"depth": self.depth, "first": self.first, "last": self.last}

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        for component, model in target.each(record, "denoiser", weights=False):
            reason = self._obstacle(component, model, target)
            schedule, missing = self._schedule(target, model) if reason is None else (None, reason)
            if schedule is None:
                record.refuse(component.name, missing)
                continue
            with patch.scope(component.module):
                cache = FeatureCache(component.name, target.clock, schedule, record)
                skipped = self._skip(model, cache, patch)
                _watch(cache, component, target, patch)
            record.changed[f"{component.name} modules skipped at times"] = skipped

    def _schedule(self, target: Target, model: Any) -> tuple[Chooses | None, str]:
        """What chooses the full steps, or None and why there is none."""
        if self.budget is None:
            steps = None if self.steps is None else tuple(self.steps)
            return Schedule(self.interval, steps, self.fewest_steps, self.forecast), ""
        scheduler = getattr(target.pipe, "scheduler", None)
        if scheduler is None:
            return None, "a budget needs a pipe with one scheduler"
        path, identity = self._place(model, scheduler)
        try:
            found = Calibration.read(path, identity)
        except ValueError as error:
            return None, str(error)
        best = max(table.best for table in found.tables)
        if self.budget > best:
            return None, f"a budget of {self.budget} dB is more than was measured ({best:.1f} dB)"
        return Calibrated(target.pipe, found, float(self.budget)), ""

    def _place(self, model: Any, scheduler: Any) -> tuple[Path, dict[str, Any]]:
        """The file of a model's calibration, and the identity that it must have."""
        identity = identity_of(model, scheduler, self.cut)
        return Path(self.calibration) if self.calibration else default_path(identity), identity

    def calibrations(self, target: Target) -> list[tuple[Path, dict[str, Any]]]:
        """The files of calibrations for a pipe, whether they are there or not, and identities."""
        scheduler = getattr(target.pipe, "scheduler", None)
        if scheduler is None:
            return []
        models = [each.module for each in target.denoisers]
        return [self._place(model, scheduler) for model in models if hasattr(model, "config")]

    def _obstacle(self, component: Component, model: Any, target: Target) -> str | None:
        """Why nothing can be skipped in a denoiser, in half a sentence, or None."""
        import torch

        if type(model).__module__.startswith(_CONTROLNETS):
            return "what a ControlNet adds is computed at every step"
        if getattr(model, "_cache_config", None) is not None:
            return "diffusers' own cache is enabled: call its disable_cache() first"
        if id(component.entry) in target.compiled:
            return "compiled as one graph: give compile the scope 'regional'"
        if isinstance(model, torch._dynamo.OptimizedModule) or any(
            each._compiled_call_impl is not None for each in model.modules()
        ):
            return "compiled by the user: load it uncompiled and let the pass compile do it"
        if component.obstacle == "offloaded in groups":
            return "offloaded in groups, each of which loads the next"
        if is_unet(model):
            return unet_obstacle(model, self.depth)
        return transformer_obstacle(model, self.first, self.last)

    def _skip(self, model: Any, cache: FeatureCache, patch: Patch) -> int:
        if is_unet(model):
            return skip_in_unet(model, self.depth, cache, patch)
        return skip_in_transformer(model, self.first, self.last, cache, patch)


def _check_budget(budget: Any, steps: Any) -> None:
    """Raise `ValueError` for what is no budget, and where full steps are given besides."""
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if not number or not 0 < budget < math.inf:
        raise ValueError(f"budget is a PSNR in dB above 0, such as 34.0, not {budget!r}")
    if steps is not None:
        raise ValueError("give either budget or steps: each chooses the full steps")


def _watch(cache: FeatureCache, component: Component, target: Target, patch: Patch) -> None:
    """Tell a cache of its denoiser's calls, and of a generation's beginning and end."""
    entry, clock = component.entry, target.clock
    patch.set(entry, CACHE, cache)
    before = entry.register_forward_pre_hook(cache.begin, with_kwargs=True)
    patch.add_handle(before)
    patch.add_handle(entry.register_forward_hook(lambda *_: cache.end()))
    for listeners in (clock.listeners, clock.end_listeners):
        patch.on_undo(_remover(listeners, cache.reset))
        listeners.append(cache.reset)


def _remover(listeners: list[Any], listener: Any) -> Any:
    return lambda: listeners.remove(listener)
