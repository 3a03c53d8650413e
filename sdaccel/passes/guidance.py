"""Guidance whose unconditional branch is not computed at every step.

The two branches of classifier-free guidance differ by little that changes slowly late in a
generation: there the conditional one alone is computed, and the difference kept. Half of a batch is
left out, or the second of two calls. With `hold` off such steps are not guided at all, which is
guidance in a limited interval (Kynkäänniemi et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Effect, Pass
from .guidance_kind import CONTROLNETS, guidance_of
from .guidance_state import Branches, GuidedSteps, OneCall, TwoCalls
from .step_cache_schedule import whole_number

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
        hold: guide the others by the difference kept; False leaves them unguided.
    For tinkering:
        start: before this share of the steps there is no guidance.
        forecast: 0 repeats the last difference, 1 extrapolates from the last two.
        fewest_steps: in fewer steps both branches are always computed.
    """

    stop: float = 0.6
    every: int | None = 4
    hold: bool = True
    start: float = 0.0
    forecast: int = 0
    fewest_steps: int = 10

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
        if self.forecast not in (0, 1):
            raise ValueError(f"forecast is 0 or 1, not {self.forecast!r}")

    def refusal(self, target: Target) -> str | None:
        kind: Any = type(target.pipe)
        if guidance_of(kind) is None:
            return f"{kind.__name__}'s guidance is none, or not `uncond + scale * (cond - uncond)`"
        return None

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        kind: Any = type(target.pipe)
        guidance = guidance_of(kind)
        steps = GuidedSteps(self.start, self.stop, self.every, self.hold, self.fewest_steps)
        for component, model in target.each(record, "denoiser", weights=False):
            if type(model).__module__.startswith(CONTROLNETS):
                record.refuse(component.name, "a ControlNet computes both branches at every step")
                continue
            branches = Branches(component.name, target.clock, steps, self.forecast, record)
            with patch.scope(component.module):
                if guidance is not None and guidance.batched:
                    _halve(branches, component, target, patch)
                else:
                    _leave_out(branches, component, target, patch)
            record.changed[f"{component.name} guided"] = 1


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
        patch.on_undo(partial(listeners.remove, reset))
        listeners.append(reset)
