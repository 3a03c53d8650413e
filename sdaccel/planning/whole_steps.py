"""Which schedules are measured for steps that leave out the whole denoiser.

What an early error does to the picture depends on the model, and errors of neighbouring steps may
cancel: how far outputs are from their forecasts says little. So the schedules that were tried for
features are drawn with, and others of full steps at equal distances or closer at the start, all at
the order, and in the variable, that did best in a trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..passes.calibration_tables import Row

BENDS = (1.0, 1.8)
"""How much closer full steps are at the start than at the end; 1.0 is equal."""
SHARES = (0.28, 0.32, 0.36, 0.4, 0.48, 0.6)
"""The shares of full steps that are tried. With fewer, stock in as few steps can be nearer to all
(shapes-unet, 5 of 25: 30.5 dB, and 31.4 by 5 steps); with more, features may as well be kept."""
_TRIAL = 3
"""In the trial of the orders each third step is full."""


class Measure(Protocol):
    """Draws with full steps, and forecasts of an order in a variable."""

    def __call__(self, steps: tuple[int, ...], order: int, skip: str, variable: str) -> Row: ...


def bent_steps(total: int, count: int, bend: float) -> tuple[int, ...]:
    """At most `count` of `total` steps, the first and the last among them.

    The share of the way is taken to the power of `bend`; steps that fall together are one.
    """
    last = total - 1
    return tuple(sorted({round(last * (place / (count - 1)) ** bend) for place in range(count)}))


def measure_whole(
    measure: Measure,
    total: int,
    for_features: Sequence[tuple[int, ...]] = (),
    shares: Sequence[float] = SHARES,
    variables: Sequence[str] = ("step",),
) -> list[Row]:
    """The rows for shares of full steps, by what was best of the orders 0, 1 and 2."""
    counts = sorted({max(3, round(share * total)) for share in shares})
    counts = [each for each in counts if each < total]
    if not counts:
        return []
    trial = bent_steps(total, max(3, 1 + round((total - 1) / _TRIAL)), 1.0)
    kinds = [(0, "step"), *((order, each) for each in variables for order in (1, 2))]
    trials = [measure(trial, order, "whole", variable) for order, variable in kinds]
    best = max(trials, key=lambda row: row.psnr)
    bent = [bent_steps(total, count, bend) for count in counts for bend in BENDS]
    tried = [each for each in (*bent, *for_features) if counts[0] <= len(each) <= counts[-1]]
    others = [each for each in dict.fromkeys(tried) if each != trial]
    return [*trials, *(measure(each, best.forecast, "whole", best.variable) for each in others)]
