"""The rungs of the frontier: how much speed a model has at which loss, and what controls reach.

Each approximate plan runs at several settings. Beside them stands stock in fewer steps, with its
own sampler and with a better one, and the ladder adds stock in the time of each approximate rung.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdaccel import Plan
from sdaccel.passes.base import Effect
from sdaccel.plan import NAMED

from .controls import BETTER, PREFIX
from .errors import BenchmarkError
from .rungs import Rung, rung

if TYPE_CHECKING:
    from .workloads import Workload

BASE = "eager"
"""The plan to which the settings are added: it compiles nothing, so a rung is ready at once."""
_SETTINGS = (
    "step_cache[interval=2]",
    "step_cache[interval=3]",
    "step_cache[interval=4]",
    "step_cache[interval=6]",
    "step_cache[budget=34]",
    "step_cache[budget=28]",
)
_FASTER = (1.5, 2.0, 3.0)
"""By how much the controls have fewer steps."""


def frontier(workload: Workload) -> list[Rung]:
    """The rungs for a workload; raises `BenchmarkError` where one forward is all there is."""
    if workload.steps is None:
        raise BenchmarkError(
            f"{workload.name} is one forward, and a frontier is of whole generations: name one, "
            "such as --workload shapes-unet."
        )
    approximate = [name for name in NAMED if Plan.of(name).effect is Effect.APPROXIMATE]
    plans = [BASE, *(f"{BASE}+{each}" for each in _SETTINGS), *approximate]
    counts = dict.fromkeys(max(1, round(workload.steps / factor)) for factor in _FASTER)
    fewer = [f"{PREFIX}{count}" for count in counts if count < workload.steps]
    better = [f"{name}{sampler}" for sampler in BETTER for name in fewer]
    return [rung(name) for name in [*plans, *fewer, *better]]
