"""The pictures of a rung beside stock's, of the same prompts and noise, by `sdaccel.quality`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdaccel.quality.comparing import Comparison
    from sdaccel.quality.metrics import Drawing, Metric

PROMPTS = (
    "a photograph of a red fox in fresh snow, morning light",
    "a bowl of oranges on a wooden table, oil painting",
    "a lighthouse on a cliff in a storm",
    "an old man reading a newspaper in a cafe, black and white",
    "a city street at night in the rain, neon signs",
    "a macro photograph of a bee on a lavender flower",
    "a castle on a floating island, concept art",
    "two cats asleep on a blue sofa",
)
"""For models that have no prompts of their own; they go round where more are asked for."""
_KEYS = {"PSNR": "psnr", "SSIM": "ssim", "LPIPS": "lpips", "motion error": "motion_error"}


@dataclass(frozen=True)
class Judge:
    """What is drawn of a model, embedded or any other, in how many steps, to judge a rung."""

    model: str
    steps: int

    def prompts(self, count: int) -> list[str]:
        """The first held-out prompts of an embedded model, or `PROMPTS`."""
        from sdaccel.cli import embedded, models

        if models.is_embedded(self.model):
            return embedded.prompts(self.model, count, evaluation=False)
        return [PROMPTS[index % len(PROMPTS)] for index in range(count)]

    def draw(self, pipe: Any, count: int) -> list[Drawing]:
        """A picture or clip of each of the first `count` prompts, drawing i from the noise of i."""
        from sdaccel.cli import models
        from sdaccel.cli.paired_drawing import Task
        from sdaccel.cli.request import Request

        defaults = models.call_defaults(self.model)
        prompts = self.prompts(count)
        request = Request(prompt=prompts[0], steps=self.steps, seed=0, defaults=defaults)
        return Task(tuple(prompts), request).draw(pipe, "judging")

    def quality(self, stock: Sequence[Drawing], rung: Sequence[Drawing]) -> dict[str, float]:
        """Numbers by name: each distance's mean with its 95% interval and its worst pair, prompt
        fidelity with its interval. A metric that can't be had here, and what JSON has no number
        for, is left out.
        """
        from sdaccel.quality.comparing import Pair, compare

        prompts = self.prompts(len(stock))
        pairs = [Pair(*each) for each in zip(prompts, stock, rung, strict=True)]
        comparison = compare(pairs, self._metrics(stock[0]))
        found = {**_distances(comparison), **self._fidelity(comparison)}
        found["prompts"] = len(prompts)
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _metrics(self, drawing: Drawing) -> list[Metric]:
        from sdaccel.cli import embedded, models
        from sdaccel.quality.metrics import metrics, prompt_fidelity

        wanted = [each for each in metrics(clips=drawing.pixels.ndim == 4) if each.name in _KEYS]
        if models.is_embedded(self.model):
            wanted.append(prompt_fidelity(embedded.shows(self.model)))
        return wanted

    def _fidelity(self, comparison: Comparison) -> dict[str, float]:
        from sdaccel.quality.metrics import FIDELITY
        from sdaccel.shapes import Fidelity

        measured = comparison.measured.get(FIDELITY)
        if measured is None or measured.scores is None:
            return {}
        shown = [score for score in measured.scores[1] if score is not None]
        found = Fidelity(round(sum(shown)), len(shown))
        return {
            "fidelity": found.share,
            "fidelity_low": found.low,
            "fidelity_high": found.high,
        }


def _distances(comparison: Comparison) -> dict[str, float]:
    return {
        key + suffix: value
        for name, key in _KEYS.items()
        if name in comparison.measured
        for summary in [comparison.measured[name].summary]
        for suffix, value in (
            ("", summary.mean),
            ("_low", summary.low),
            ("_high", summary.high),
            ("_worst", summary.worst),
        )
    }
