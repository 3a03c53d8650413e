"""Calibration of sparse attention: how far clips are at each share of attention that is kept.

Some clips are drawn with dense attention, and again at each share: what a budget promises has been
seen. On a CPU the op is plain torch under the same masks, so a GPU's clips are as far but for
rounding; with a mask of all queries and keys it is for small clips there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from ..accelerate import accelerated, report
from ..errors import PassError
from ..passes.budget import guidance_scale_of
from ..passes.calibration import Calibration, identity_of
from ..passes.calibration_tables import KeptRow, KeptTable
from ..passes.sparse_attention import SparseAttention
from ..passes.sparse_attention_budget import SPARSE
from ..passes.step_cache import StepCache
from .distances import distances

if TYPE_CHECKING:
    from ..passes.sparse_attention_state import SparseState
    from ..passes.video_blocks import VideoGrid
    from .calibrate_steps import Draw

KEEPS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97)
"""The shares that are tried."""


def calibrate_sparse(
    pipe: Any,
    draw: Draw,
    settings: SparseAttention | None = None,
    keeps: Sequence[float] = KEEPS,
) -> Calibration:
    """Measure shares to keep for what `draw` makes with `pipe`, which has no acceleration.

    Of `settings`, the pass, all hold but `keep` and `budget`; nothing is too short to be measured.
    Raises `PassError` where the pass refuses, and where clips are not of one size.
    """
    settings = settings or SparseAttention()
    options = {**settings.options, "budget": None, "fewest_tokens": 0, "anywhere": True}
    stock = draw("dense attention")
    rows: list[KeptRow] = []
    sizes: set[tuple[VideoGrid, int | None]] = set()
    for keep in keeps:
        with accelerated(pipe, "none", sparse_attention={**options, "keep": keep}):
            model, state = _only_state(pipe)
            drawn = draw(f"keep {keep}")
        density = _density(state)
        sizes.update(state.densities)
        rows.append(KeptRow(keep, density, *distances(stock, drawn)))
    finite = tuple(row for row in rows if math.isfinite(row.psnr))
    if len(sizes) != 1 or not finite:
        raise PassError("Nothing was measured: draw clips of one size that have no NaN in them.")
    ((grid, total),) = sizes
    if total is None:
        raise PassError(
            "The number of steps is not known: calibrate with a scheduler of diffusers."
        )
    table = KeptTable(
        *(total, guidance_scale_of(pipe), len(stock), astuple(grid), settings.beside, finite)
    )
    identity = identity_of(model, pipe.scheduler, StepCache().cut)
    return Calibration(identity, (), (), (table,))


def _only_state(pipe: Any) -> tuple[Any, SparseState]:
    """The denoiser whose attention is sparse, and its state."""
    parts = [each for each in pipe.components.values() if SPARSE in getattr(each, "__dict__", {})]
    if len(parts) != 1:
        refused = report(pipe)["sparse_attention"].refused
        reason = "; ".join(refused.values()) or "it takes one denoiser"
        raise PassError(f"sparse_attention can't be calibrated for this pipe: {reason}.")
    return parts[0], parts[0].__dict__[SPARSE]


def _density(state: SparseState) -> float:
    if len(state.densities) != 1:
        raise PassError(
            "No attention was sparse, or clips have several sizes: draw alike, with more steps."
        )
    return next(iter(state.densities.values()))
