"""Deep features that hardly change from step to step, kept for some steps instead of recomputed.

A full step computes everything; a shallow one runs a UNet's outer layers or a transformer's first
and last blocks, and takes what the others would have done from the full steps before. Which steps
are full is known before a generation begins, so nothing waits for the device, and full and shallow
calls are two fixed sequences of work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Effect, Pass
from .step_cache_schedule import Schedule, step_list, whole_number
from .step_cache_state import FeatureCache
from .step_cache_transformer import skip_in_transformer, transformer_obstacle
from .step_cache_unet import is_unet, skip_in_unet, unet_obstacle

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target

_CONTROLNETS = "diffusers.models.controlnets."


@dataclass(frozen=True)
class StepCache(Pass):
    """Compute the deep part of a UNet or a transformer at some steps only.

    What matters:
        interval: each `interval`-th step is full; the first and the last step are in any case.
        steps: the numbers of the full steps instead, from 0; beyond the largest all are full.
        forecast: how what is skipped follows from the full steps before: 0 repeats the last one,
            1 and 2 extrapolate from the last two or three.
    For tinkering:
        depth: how many layers of a UNet run on a shallow step, counted from its output.
        first, last: how many of a transformer's blocks do at either end.
        fewest_steps: below so many steps nothing is skipped.
    """

    interval: int = 3
    steps: Sequence[int] | None = None
    forecast: int = 0
    depth: int = 1
    first: int = 1
    last: int = 0
    fewest_steps: int = 10

    name: ClassVar[str] = "step_cache"
    summary: ClassVar[str] = "deep features kept for some steps"
    effect: ClassVar[Effect] = Effect.APPROXIMATE
    order: ClassVar[int] = 95

    def __post_init__(self) -> None:
        for name, least in (("interval", 1), ("depth", 1), ("first", 0), ("last", 0)):
            whole_number(name, getattr(self, name), least)
        whole_number("fewest_steps", self.fewest_steps, 1)
        if self.forecast not in (0, 1, 2):
            raise ValueError(f"forecast is 0, 1 or 2, not {self.forecast!r}")
        object.__setattr__(self, "steps", step_list(self.steps))

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        for component, model in target.each(record, "denoiser", weights=False):
            reason = self._obstacle(component, model, target)
            if reason is not None:
                record.refuse(component.name, reason)
                continue
            with patch.scope(component.module):
                skipped = self._skip(component, target, patch, record)
            record.changed[f"{component.name} modules skipped at times"] = skipped

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

    def _skip(self, component: Component, target: Target, patch: Patch, record: PassRecord) -> int:
        model: Any = component.module
        schedule = Schedule(self.interval, _numbers(self.steps), self.fewest_steps)
        cache = FeatureCache(component.name, target.clock, schedule, self.forecast, record)
        _watch(cache, component, target, patch)
        if is_unet(model):
            return skip_in_unet(model, self.depth, cache, patch)
        return skip_in_transformer(model, self.first, self.last, cache, patch)


def _numbers(steps: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if steps is None else tuple(steps)


def _watch(cache: FeatureCache, component: Component, target: Target, patch: Patch) -> None:
    """Tell a cache of its denoiser's calls, and of a generation's beginning and end."""
    entry, clock = component.entry, target.clock
    before = entry.register_forward_pre_hook(cache.begin, with_kwargs=True)
    patch.add_handle(before)
    patch.add_handle(entry.register_forward_hook(lambda *_: cache.end()))
    for listeners in (clock.listeners, clock.end_listeners):
        patch.on_undo(_remover(listeners, cache.reset))
        listeners.append(cache.reset)


def _remover(listeners: list[Any], listener: Any) -> Any:
    return lambda: listeners.remove(listener)
