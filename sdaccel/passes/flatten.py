"""A denoiser's forward as one function: its calls of torch in a row, with no module in between.

Between two of torch's operations runs Python: calls of modules, hooks that are none, processors
that look up their settings, attention that asks what suits its shapes, and this package's own ops
that look at what they can take. All of it decides the same at every step. So a forward is watched
once for each kind of call (shapes, strides and dtypes of its tensors, values of other arguments),
and from then on a function does what torch was seen to do, with the same weights in the same order:
the result is stock's to the bit, which is checked once for each kind.

Where Python would have to run, as with hooks, processors that are not diffusers' own, another
library's caches, or a decision by a value, the call runs as it is, and the report has the reason.
Modules, adapters, weights and settings are compared before every forward; where something is
another, all is watched anew. Other passes' counts of what ran grow when a forward is watched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Effect, Pass
from .replaying import foreign_forward, watch_forward

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target


@dataclass(frozen=True)
class Flatten(Pass):
    """Watch each denoiser's forward once, and do without its modules from then on.

    `limit` is how many kinds of calls a denoiser keeps; the one that was least recently used goes.
    """

    limit: int = 8

    name: ClassVar[str] = "flatten"
    summary: ClassVar[str] = "denoisers' forwards without modules in between"
    effect: ClassVar[Effect] = Effect.EXACT
    # around whatever the others have made of a forward
    order: ClassVar[int] = 99
    # a graph leaves out more; the others decide by the step what they do
    conflicts: ClassVar[frozenset[str]] = frozenset(
        {"cuda_graph", "token_merge", "sparse_attention"}
    )

    def __post_init__(self) -> None:
        if not isinstance(self.limit, int) or isinstance(self.limit, bool) or self.limit < 1:
            raise ValueError(f"limit is a whole number of at least 1, not {self.limit!r}")

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        from .flat_forward import FlatForward

        for component, model in target.each(record, "denoiser"):
            reason = _obstacle(component, model, target)
            if reason is not None:
                record.refuse(component.name, reason)
            else:
                watch_forward(component, FlatForward, self.limit, target, patch, record)


def _obstacle(component: Component, model: Any, target: Target) -> str | None:
    """Why a denoiser's forward can't be written out, in half a sentence, or None."""
    if any(id(each) in target.compiled for each in (component.entry, *model.modules())):
        return "compiled, which leaves its modules out already"
    return foreign_forward(component, model)
