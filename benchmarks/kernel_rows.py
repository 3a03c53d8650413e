"""Rows of the kernels' benchmark: what a variant reaches of the machine's ceilings, and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from .rows import Results, Row

NAME = "kernels"

KERNEL, STOCK, INDUCTOR, TORCH, PACKAGE = "kernel", "stock", "inductor", "torch", "package"
"""Kinds of variants: ours, as diffusers writes it, that compiled, torch's own kernels, others'."""


@dataclass(frozen=True)
class Target:
    """What a kernel shall reach: a share of the copy ceiling, or a ratio to the fastest of kinds.

    `against` is "copy", or the kinds of variants whose fastest right one it is compared with.
    """

    at_least: float
    against: str | tuple[str, ...]

    @property
    def name(self) -> str:
        """In words: "85% of copy", "1.3x the fastest of stock, torch"."""
        if isinstance(self.against, str):
            return f"{self.at_least:.0%} of {self.against}"
        return f"{self.at_least:g}x the fastest of {', '.join(self.against)}"


@dataclass
class Verdict:
    """A target, what was found, and whether that meets it; None where nothing was measured."""

    target: str
    at_least: float
    found: float | None
    met: bool | None


@dataclass
class KernelRow(Row):
    """One variant of one op at one shape; the workload is the op, the rung the variant.

    `bytes` and `flops` are the op's own cost, the same for all variants: what must cross the bus,
    whatever a variant really moves. `bound` says which of the two a share is taken of. `seconds`
    are a call's on the device, `host_seconds` what launching one takes; `launched` is "graph" where
    calls were replayed from a CUDA graph, else "host".
    """

    model: str = ""
    case: str = ""
    bound: str = "memory"
    bytes: int | None = None
    launched: str = "host"
    host_seconds: float | None = None
    verdicts: list[dict[str, object]] = field(default_factory=list)

    DERIVED: ClassVar[tuple[str, ...]] = (
        "median",
        "interquartile_range",
        "noisy",
        "speedup",
        "rate",
        "share",
    )

    @property
    def rate(self) -> float | None:
        """Bytes a second for an op that memory bounds, else floating point operations a second."""
        amount = self.bytes if self.bound == "memory" else self.flops
        return amount / self.median if amount and self.median else None

    @property
    def share(self) -> float | None:
        """The rate as a share of the machine's measured copy, or of its matmul in this dtype."""
        ceiling = self.copy_ceiling if self.bound == "memory" else self.matmul_ceiling
        return self.rate / ceiling if self.rate and ceiling else None


@dataclass
class KernelResults(Results):
    """A run of the kernels' benchmark."""

    ROW: ClassVar[type[Row]] = KernelRow

    def kernel_rows(self) -> list[KernelRow]:
        """The rows, by their type."""
        return [row for row in self.rows if isinstance(row, KernelRow)]


def judge(rows: Sequence[KernelRow], targets: Sequence[Target]) -> None:
    """Write into the kernel's row of a case what it reached of each target."""
    kernel = next((row for row in rows if row.kind == KERNEL), None)
    if kernel is None:
        return
    kernel.verdicts = []
    for target in targets:
        found = _reached(kernel, rows, target)
        met = None if found is None else found >= target.at_least
        kernel.verdicts.append(asdict(Verdict(target.name, target.at_least, found, met)))


def _reached(kernel: KernelRow, rows: Sequence[KernelRow], target: Target) -> float | None:
    if kernel.status != "ok":
        return None
    if isinstance(target.against, str):
        return kernel.share
    others = [row.median for row in rows if row.kind in target.against and row.status == "ok"]
    known = [each for each in others if each is not None]
    if not known or kernel.median is None:
        return None
    return min(known) / kernel.median


def verdict_text(verdict: Mapping[str, object]) -> str:
    """In a few words: "0.91 of 0.85: met"; "not measured" where there was nothing to compare."""
    found, wanted = verdict["found"], verdict["at_least"]
    if verdict["met"] is None:
        return f"{verdict['target']}: not measured"
    return (
        f"{verdict['target']}: {'met' if verdict['met'] else 'MISSED'} ({found:.2f} / {wanted:g})"
    )
