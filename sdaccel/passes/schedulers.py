"""Steps of the scheduler as one weighted sum, whose weights are computed once for a schedule.

Stock computes them anew at every step, in many tiny operations, some of which make the host wait
for the device. Where a pipe guides linearly, the step takes both branches, and combining them is
part of it: see `guided_prediction`. See `sdaccel.schedulers` for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..sharing import shared_by
from .base import Effect, Pass
from .guidance_kind import CONTROLNETS, guidance_of

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Target


@dataclass(frozen=True)
class Schedulers(Pass):
    """Give the pipe's schedulers the classes that stand in for theirs; the objects stay."""

    name: ClassVar[str] = "schedulers"
    summary: ClassVar[str] = "scheduler steps as one weighted sum, its weights computed once"
    effect: ClassVar[Effect] = Effect.EXACT
    order: ClassVar[int] = 99

    def refusal(self, target: Target) -> str | None:
        return None if target.schedulers else "it has no scheduler of diffusers'"

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        from ..schedulers.counterparts import counterpart_of

        for scheduler in target.schedulers:
            name = type(scheduler).__name__
            reason = _obstacle(target, scheduler)
            if reason is not None:
                record.refuse(name, reason)
                continue
            with patch.scope(scheduler):
                _swap(scheduler, counterpart_of(type(scheduler)), patch, record)
            record.changed[name] += 1
        if record.changed:
            _let_guidance_wait(target, patch)


def _let_guidance_wait(target: Target, patch: Patch) -> None:
    """Hooks outside of those of all other passes, which take tensors for an output."""
    from .guided_prediction import attach

    kind: Any = type(target.pipe)
    if guidance_of(kind) is None:
        return
    for component in target.denoisers:
        controls = type(component.module).__module__.startswith(CONTROLNETS)
        if not controls and shared_by(component.module, target.pipe) is None:
            with patch.scope(component.module):
                attach(component, target, patch)


def _obstacle(target: Target, scheduler: Any) -> str | None:
    from ..schedulers.counterparts import counterpart_of, obstacle_of
    from ..schedulers.tabled import Tabled

    owner = shared_by(scheduler, target.pipe)
    if owner is not None:
        return f"shared with a pipe accelerated before ({owner})"
    if isinstance(scheduler, Tabled):
        return "it is one of sdaccel's already"
    if counterpart_of(type(scheduler)) is None:
        return "there is no stand-in for this class, so stock's own steps are kept"
    return obstacle_of(scheduler)


def _swap(scheduler: Any, counterpart: Any, patch: Patch, record: PassRecord) -> None:
    from ..schedulers.tables import STATE, Tables

    tables = Tables(record.ran, record.note)
    patch.set_class(scheduler, counterpart)
    patch.set(scheduler, STATE, tables)
    patch.on_undo(lambda: tables.spill(scheduler))
