"""What sparse attention keeps for a budget in dB: the least that was measured to be near enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from .budget import Measured, calibration_for
from .calibration import HOW
from .calibration_tables import KeptTable
from .step_cache import StepCache
from .video_blocks import VideoGrid

if TYPE_CHECKING:
    from ..target import Component, Target

SPARSE = "_sdaccel_sparse_attention"
"""Under this name a denoiser has the state of its attentions."""


@dataclass(frozen=True)
class Kept:
    """The share to keep in a generation, or None and why its attention is dense."""

    keep: float | None
    reason: str = ""


class MeasuredKeep(Measured[KeptTable]):
    """Chooses the least share that was measured to keep the budget, for a size of a clip."""

    def choose(self, grid: VideoGrid, total: int | None) -> Kept:
        """What to keep of clips of that size in a generation of `total` steps."""
        if total is None:
            return Kept(None, "the number of steps is not known")
        table, reason = self.table(total, astuple(grid))
        if table is None:
            return Kept(None, reason)
        row = table.cheapest(self.budget)
        if row is None:
            return Kept(None, f"calibrated up to {table.best:.1f} dB at {total} steps")
        return Kept(row.keep)


def measured_keep(
    component: Component,
    target: Target,
    budget: float,
    beside: Mapping[str, Any],
    file: str | None,
) -> MeasuredKeep:
    """What chooses for a budget; `ValueError` with a sentence where that can't be kept.

    `beside` are the options of the pass that a calibration holds for.
    """
    pipe = target.pipe
    found = calibration_for(pipe, component.module, StepCache().cut, file, "sparse_attention")
    tables = [each for each in found.sparse_attention if each.options == beside]
    if not tables:
        raise ValueError(f"what is calibrated is for other options than {beside}: {HOW}")
    chosen = MeasuredKeep(pipe, found, budget, tables)
    if chosen.beyond:
        raise ValueError(chosen.beyond)
    return chosen
