"""May a plan be used? By what it does to the result, how far its pictures may be from stock's.

No gate lets a fault through, on either side: where stock's own picture is black or noise, nothing
can be judged by it. The limits are set, not measured: for exact plans by what exact means, for the
others by how much of a picture may change before a person calls it another one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .comparing import Comparison
from .metrics import FIDELITY, FLICKER, MOTION_KEPT, PSNR, SSIM


@dataclass(frozen=True)
class Limit:
    """What one metric's mean, or its worst pair, has to be: `least` or more, or `most` or less.

    One that is not `needed` counts only where the metric could be measured.
    """

    metric: str
    statistic: Literal["mean", "worst"]
    least: float = -math.inf
    most: float = math.inf
    needed: bool = False

    @property
    def bound(self) -> str:
        """In words: "45 or more"."""
        return f"{self.least:g} or more" if self.least > -math.inf else f"{self.most:g} or less"

    def __str__(self) -> str:
        return f"{self.statistic} {self.metric} {self.bound}"


@dataclass(frozen=True)
class Finding:
    """A limit, what was found (None where nothing was measured), and whether that passes."""

    limit: Limit
    found: float | None
    passed: bool

    def __str__(self) -> str:
        found = "was not measured" if self.found is None else f"is {self.found:.4g}"
        return f"{self.limit.statistic} {self.limit.metric} {found}, not {self.limit.bound}"


@dataclass(frozen=True)
class Verdict:
    """Whether a gate is passed, and why not, a sentence each."""

    gate: str
    findings: tuple[Finding, ...]
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the plan."""
        return not self.reasons

    def of_metric(self, name: str) -> list[Finding]:
        """What was found of the limits on one metric."""
        return [each for each in self.findings if each.limit.metric == name]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "gate": self.gate,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "limits": [str(each.limit) for each in self.findings],
        }


@dataclass(frozen=True)
class Gate:
    """Limits that all have to hold, over drawings without a fault."""

    name: str
    limits: tuple[Limit, ...]

    def judge(self, comparison: Comparison) -> Verdict:
        """The verdict on one comparison."""
        findings = [_finding(limit, comparison) for limit in self.limits]
        found = tuple(each for each in findings if each is not None)
        reasons = [*_faults(comparison), *(f"{each}" for each in found if not each.passed)]
        return Verdict(self.name, found, tuple(reasons))


EXACT_16_BIT = "exact, 16 bit"
GATES: Mapping[str, Gate] = {
    "exact": Gate(
        "exact",
        (Limit(PSNR, "worst", least=60, needed=True), Limit(FIDELITY, "worst", least=0)),
    ),
    EXACT_16_BIT: Gate(
        EXACT_16_BIT,
        (Limit(PSNR, "worst", least=45, needed=True), Limit(FIDELITY, "mean", least=0)),
    ),
    "lower precision": Gate(
        "lower precision",
        (
            Limit(PSNR, "mean", least=30, needed=True),
            Limit(SSIM, "mean", least=0.9),
            Limit(FIDELITY, "mean", least=-0.02),
            Limit(MOTION_KEPT, "worst", least=0.8),
            Limit(FLICKER, "mean", most=0.005),
        ),
    ),
    "approximate": Gate(
        "approximate",
        (
            Limit(PSNR, "mean", least=20, needed=True),
            Limit(SSIM, "mean", least=0.7),
            Limit(FIDELITY, "mean", least=-0.05),
            Limit(MOTION_KEPT, "worst", least=0.5),
            Limit(FLICKER, "mean", most=0.01),
        ),
    ),
}
"""By a plan's effect; exact plans have another gate in 16 bit, where sums depend on their order.

60 dB is an error of a quarter of one of 255 levels. With 32 prompts, a loss of 0.02 is none at all.
For scale, the embedded UNet over 8 held-out prompts, 25 steps, on an AMD EPYC with 2 cores: plan
lossless in 32 bit 128 dB at worst; plan eager in bfloat16 52 dB at worst from stock in bfloat16;
bfloat16 from stock in 32 bit 52 dB in the mean and 46 dB at worst, SSIM 0.999.
"""


def gate_for(effect: str, sixteen_bit: bool) -> Gate:
    """The gate for plans of this effect ("exact", "lower precision", "approximate")."""
    return GATES[EXACT_16_BIT if sixteen_bit and effect == "exact" else effect]


def _finding(limit: Limit, comparison: Comparison) -> Finding | None:
    """What a comparison says of a limit; None where it counts only if measured, and was not."""
    measured = comparison.measured.get(limit.metric)
    if measured is None:
        return Finding(limit, None, False) if limit.needed else None
    summary = measured.summary
    found = summary.mean if limit.statistic == "mean" else summary.worst
    return Finding(limit, found, limit.least <= found <= limit.most)


def _faults(comparison: Comparison) -> list[str]:
    """The first faulty drawing on each side, and how many more there are."""
    reasons = []
    for side, second in (("first", False), ("second", True)):
        faults = [each for each in comparison.faults if each.second is second]
        if faults:
            prompt = comparison.prompts[faults[0].index]
            more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            reasons.append(f"the {side} plan's picture of '{prompt}' {faults[0].reason}{more}")
    return reasons
