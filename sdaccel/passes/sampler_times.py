"""Where each step of a generation lies in the sampler's own time, known before its loop begins.

A sampler of first order (DDIM, Euler, flow matching) integrates over the noise level `sigma`, the
DPM-Solvers and UniPC over half the log-SNR, and DDIM with v-prediction turns a sample by an `angle`
whose tangent is the noise level. Steps lie at unequal distances in each, and a forecast in the
variable that is integrated over makes a multistep solver (Adams-Bashforth) of it.

A schedule that begins with noise alone (`rescale_betas_zero_snr`, CogVideoX) has an infinite sigma
and log-SNR at its first step; its angle there is a right one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..clock import Clock
    from .step_cache_schedule import Choice

Variable = Literal["step", "sigma", "log_snr", "angle"]
VARIABLES: tuple[Variable, ...] = ("step", "sigma", "log_snr", "angle")
_ALIKE = 1e-3
"""Distances that differ by less, relative to their mean, are equal."""


class SamplerTimes:
    """The noise levels of the generation that a clock is in.

    `read` is called when one begins: levels that lie on a device are waited for there, not in the
    loop. `flow` says whether a sample is `(1 - sigma) * data + sigma * noise`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of: Any = None
        self._levels: list[float] | None = None
        self._flow = False

    def read(self) -> None:
        """A generation begins."""
        scheduler = self._clock.scheduler
        if scheduler is not None:
            self._of = getattr(scheduler, "timesteps", None)
            self._levels, self._flow = noise_levels(scheduler), is_flow(scheduler)

    def points(self, total: int, variable: str) -> list[float] | None:
        """The last `total` steps in this variable, rising; None where it does not rise, or so far.

        A schedule that img2img cuts short has the last steps of the whole one.
        """
        if variable == "step":
            return [float(step) for step in range(total)]
        scheduler = self._clock.scheduler
        if scheduler is not None and getattr(scheduler, "timesteps", None) is not self._of:
            self.read()  # set anew before any step was made
        if self._levels is None or not 0 < total <= len(self._levels):
            return None
        levels = self._levels[-total:]
        made = {"sigma": _negative, "log_snr": self._log_snr, "angle": self._angle}[variable](
            levels
        )
        rising = all(a < b for a, b in pairwise(made))
        return made if rising and all(map(math.isfinite, made)) else None

    def points_for(self, choice: Choice, total: int) -> tuple[list[float], str | None]:
        """Where the steps lie for a choice's forecasts, and what there is to say about it.

        Where its variable is not known these are their numbers.
        """
        made = self.points(total, choice.variable)
        if made is not None:
            return made, None
        why = f"{choice.variable} does not rise or is not known"
        steps = [float(step) for step in range(total)]
        return steps, f"forecasts go by the step's number, for {why}"

    def variables(self, total: int) -> list[str]:
        """Those in which the steps are known and lie at distances of their own; "step" first.

        The angle is one where sigma is infinite: to try each takes drawings.
        """
        known = [(each, self.points(total, each)) for each in VARIABLES]
        found = [name for name, at in known if at and (name == "step" or not _is_even(at))]
        return [each for each in found if each != "angle" or self.points(total, "sigma") is None]

    def _log_snr(self, levels: Sequence[float]) -> list[float]:
        top = 1.0 if self._flow else math.inf
        if not all(0 < each < top for each in levels):
            return [math.nan] * len(levels)
        return [math.log((1 - each if self._flow else 1.0) / each) for each in levels]

    def _angle(self, levels: Sequence[float]) -> list[float]:
        return [-math.atan2(each, 1 - each if self._flow else 1.0) for each in levels]


def _negative(levels: Sequence[float]) -> list[float]:
    return [-each for each in levels]


def check_variable(variable: Any) -> None:
    """Raise `ValueError` for what no forecast can be a polynomial in."""
    if variable not in VARIABLES:
        raise ValueError(f"variable is 'step', 'sigma', 'log_snr' or 'angle', not {variable!r}")


def point_of(step: int, points: Sequence[float]) -> float:
    """Where a step lies; one beyond the last, which no schedule has, as far on as its number."""
    return points[step] if step < len(points) else points[-1] + step - len(points) + 1


def noise_levels(scheduler: Any) -> list[float] | None:
    """The noise level sigma at each of a scheduler's timesteps; None where it tells none.

    With variance preserved that is the noise's share of a sample over the data's.
    """
    import torch

    timesteps = getattr(scheduler, "timesteps", None)
    sigmas = getattr(scheduler, "sigmas", None)
    if not isinstance(timesteps, torch.Tensor) or timesteps.dim() != 1:
        return None
    if isinstance(sigmas, torch.Tensor) and len(sigmas) in (len(timesteps), len(timesteps) + 1):
        return [float(each) for each in sigmas[: len(timesteps)].tolist()]
    kept = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(kept, torch.Tensor):
        return None
    places = [round(each) for each in timesteps.tolist()]
    if not all(0 <= each < len(kept) for each in places):
        return None
    shares = [float(each) for each in kept[places].tolist()]
    return [math.sqrt((1 - each) / each) if each > 0 else math.inf for each in shares]


def is_flow(scheduler: Any) -> bool:
    """Whether noise levels run from 1 to 0, as flow matching has them."""
    config = dict(getattr(scheduler, "config", {}))
    return (
        "FlowMatch" in type(scheduler).__name__
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def _is_even(points: Sequence[float]) -> bool:
    """Whether points lie at equal distances, as the numbers of steps do."""
    gaps = [b - a for a, b in pairwise(points)]
    return not gaps or max(gaps) - min(gaps) <= _ALIKE * sum(gaps) / len(gaps)
