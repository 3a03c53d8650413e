"""Drop-in schedulers: the same samples and random numbers, with no work and no wait in between.

    from sdaccel.schedulers import UniPCMultistepScheduler  # instead of: from diffusers import ...

    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)

A step of nearly every sampler is a weighted sum of the sample, the prediction, noise and what
earlier steps have kept. The weights depend on the step alone, so they are found once for a schedule
by running stock's own step on basis vectors, see `probe`; a step is then one pass over memory. What
isn't a weighted sum, stock's own step computes, and a warning says why.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from .counterparts import KINDS, counterpart_of

    if name == "__all__":
        return sorted(KINDS)
    if name not in KINDS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    import diffusers

    return counterpart_of(getattr(diffusers, name))


def __dir__() -> list[str]:
    from .counterparts import KINDS

    return sorted(KINDS)
