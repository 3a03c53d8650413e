"""From how many tokens on an attention of some blocks is expected to save time."""

from __future__ import annotations

import math

from .expected_seconds import Rates

EXPECTED_DENSITY = 0.35
"""Of masks that are measured, before one has been: what published masks of videos keep."""
_KERNEL = 0.65
"""The rate of a Triton kernel against the fastest dense one: 395 and 595 TFLOP/s in published
figures of an H100, 128 channels a head, 16k tokens."""
_LAUNCHES = 30
"""Of the ops that choose blocks and list them."""


def fewest_tokens(samples: int, width: int, density: float, rates: Rates) -> int | None:
    """How many tokens of `width` channels make it pay; None where it never does."""
    gain = 1 - density / _KERNEL
    if gain <= 0:
        return None
    flops = rates.seconds(launches=_LAUNCHES) * rates.flops / gain
    return math.ceil(math.sqrt(flops / (4 * samples * width)))
