"""What never changes in a denoising loop is computed once, not at every step.

A denoiser's forward is looked at from inside, once for each kind of call: what the latents have no
part in is constant (keys and values of text, projections of captions, tables of positions) or known
ahead (embeddings of the timestep, and the projections that modulate every block). Constant outputs
are kept; what depends on the timestep is computed for the whole schedule in one product, and read
from a table. It is found in any model, by what the outputs depend on. The products have other
shapes than stock's, so they round differently in the last bit.

Where blocks are compiled, or the model as a whole, what depends on the timestep enters the code as
an input (see `hoist_compiled`); what is constant in there stays there.

With `release` the weights that only tables are computed from wait in host memory: of FLUX.1-dev's
23.8 GB in bf16 they are 6.5, of Qwen-Image's 40.9 13.6, of SD3.5-large's 16.1 5.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from .base import Effect, Pass

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target
    from .hoisting import Hoisting


HOISTING = "_sdaccel_hoisting"
"""Under this name a denoiser has what relieves it."""


@dataclass(frozen=True)
class Hoist(Pass):
    """Compute what is constant once a generation, and what depends on the timestep ahead.

    What matters:
        release: let weights that only tables are computed from wait in host memory. The device
            needs room for all weights until the third step of the first generation.
    For tinkering:
        max_bytes: of tables and kept outputs, for each denoiser.
    """

    release: bool = False
    max_bytes: int = 1 << 30

    name: ClassVar[str] = "hoist"
    summary: ClassVar[str] = "constant and timestep-only work leaves the denoising loop"
    effect: ClassVar[Effect] = Effect.EXACT
    order: ClassVar[int] = 95
    retried: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.release, bool):
            raise TypeError(f"release is True or False, not {self.release!r}")
        if not isinstance(self.max_bytes, int) or self.max_bytes < 0:
            raise ValueError(f"max_bytes is a whole number from 0 on, not {self.max_bytes!r}")

    def refusal(self, target: Target) -> str | None:
        if not target.schedulers:
            return "the pipe has no scheduler that would tell when a generation begins"
        return None

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        from .hoist_release import gains_memory
        from .hoisting import Hoisting

        if self.release and not gains_memory(target.device):
            record.note("release: the weights are in host memory already, there is nothing to gain")
        for component, model in target.each(record, "denoiser"):
            parts = {id(each) for each in model.modules()}
            if parts & target.frozen:
                record.refuse(
                    component.name, "its weights are compiled in: give compile freeze=False"
                )
                continue
            compiled = frozenset(parts & target.compiled)
            hoisting = Hoisting(
                *(component.name, model, target.clock, record, self.max_bytes, self.release),
                compiled,
            )
            with patch.scope(component.module):
                _attach(hoisting, component, target, patch)
            record.changed["denoisers watched"] += 1


def _attach(hoisting: Hoisting, component: Component, target: Target, patch: Patch) -> None:
    """Put the hooks around a denoiser's forward, and forget when generations begin and end."""
    entry, clock = component.entry, target.clock
    patch.on_undo(hoisting.close)
    patch.set(entry, HOISTING, hoisting)
    patch.add_handle(entry.register_forward_pre_hook(hoisting.before, with_kwargs=True))
    patch.add_handle(
        entry.register_forward_hook(hoisting.after, with_kwargs=True, always_call=True)
    )
    for listeners in (clock.listeners, clock.end_listeners):
        patch.on_undo(partial(listeners.remove, hoisting.forget))
        listeners.append(hoisting.forget)
