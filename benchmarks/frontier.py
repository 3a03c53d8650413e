"""The rungs of the frontier: how much speed a model has at which loss, and what controls reach.

Each approximate plan runs at several settings. Beside them stand stock in 16 bit, stock in fewer
steps, with its own sampler and with better ones, and the peers that skip or merge work, each at
several settings too: all in 16 bit where the machine computes that faster. The ladder adds stock in
the time of each approximate plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdaccel import Plan
from sdaccel.passes.base import Effect
from sdaccel.plan import NAMED

from .controls import BETTER, FAMILY
from .errors import BenchmarkError
from .rungs import STAND_IN, Rung, rung

if TYPE_CHECKING:
    from .workloads import Workload

EXACT, BASE = "eager", "eager+precision"
"""A plan that compiles nothing, so that a rung is ready at once, and what settings are added to."""
_SETTINGS = (
    "step_cache[interval=2]",
    "step_cache[interval=3]",
    "step_cache[interval=4]",
    "step_cache[interval=6]",
    "step_cache[budget=34]",
    "step_cache[budget=28]",
)
_FASTER = (1.3, 1.8, 2.5, 3.5)
"""By how much the controls have fewer steps."""
PEERS = {
    "unet": ("deepcache-2", "deepcache-3", "deepcache-5", "tomesd-0.3", "tomesd-0.5"),
    "transformer": (
        "first-block-cache-0.1",
        "first-block-cache-0.2",
        "first-block-cache-0.4",
        "taylorseer-2",
        "taylorseer-3",
        "taylorseer-lite-2",
        "taylorseer-lite-3",
        "taylorseer-lite-5",
        "mag-cache-0.01",
        "mag-cache-0.06",
        "mag-cache-0.24",
        "cache-dit-0.2",
        "cache-dit-0.3",
        "cache-dit-0.4",
    ),
}
"""What there is for a denoiser, by its name in a pipeline, from slow and near to fast and far."""
_FOR_CLIPS = ("sea-cache-0.25", "sea-cache-0.5")
"""SeaCache knows video models alone."""


def frontier(workload: Workload) -> list[Rung]:
    """The rungs for a workload; raises `BenchmarkError` where one forward is all there is."""
    if workload.steps is None:
        raise BenchmarkError(
            f"{workload.name} is one forward, and a frontier is of whole generations: name one, "
            "such as --workload shapes-unet."
        )
    approximate = [name for name in NAMED if Plan.of(name).effect is Effect.APPROXIMATE]
    plans = [STAND_IN, EXACT, BASE, *(f"{BASE}+{each}" for each in _SETTINGS), *approximate]
    counts = dict.fromkeys(max(1, round(workload.steps / factor)) for factor in _FASTER)
    fewer = [f"{FAMILY}-{count}" for count in counts if count < workload.steps]
    better = [f"{name}-{sampler}" for sampler in BETTER for name in fewer]
    return [rung(name) for name in [*plans, *fewer, *better, *_peers(workload)]]


def _peers(workload: Workload) -> list[str]:
    """Those of the workload's denoiser; all where that isn't known before it's loaded."""
    known = [names for kind, names in PEERS.items() if workload.denoiser in (kind, None)]
    more = _FOR_CLIPS if workload.unit == "clip" or workload.denoiser is None else ()
    return [name for names in (*known, more) for name in names]
