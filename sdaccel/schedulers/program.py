"""A trajectory as a list of weighted sums: what `probe` finds, and what a step computes from.

A step adds up the sample, the prediction, noise, and what earlier steps have kept, each times a
weight that depends on the step alone. What stock keeps in lists and attributes lies in numbered
slots here; a value that stock only moves from one place to another stays in its slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..kernels.linear_step import BOUNDS, CLIP, FIRST_SLOT, ROW, TARGETS, WIDTH

if TYPE_CHECKING:
    import torch

SAMPLE, PREDICTION, NOISE, CLIPPED = range(FIRST_SLOT)

Weights = tuple[tuple[int, float], ...]
"""The columns that are added up, and their weights; see `kernels.linear_step` for the columns."""
Options = tuple[tuple[str, Any], ...]
"""A step's own options by name, such as eta."""
Place = tuple[str, int | None]
"""An attribute of a stock scheduler that holds a tensor, or the item of a list that does."""


@dataclass(frozen=True)
class Clip:
    """A sum that is clipped to [low, high] before it is a column of its own."""

    weights: Weights
    low: float
    high: float


@dataclass(frozen=True)
class Step:
    """One step.

    `result` is the next sample, `beside` what stock returns next to it, `writes` the slots that
    change, `draws` whether noise is drawn. `places` says where stock would keep which slot
    afterwards, `after` what its other attributes would be.
    """

    result: Weights
    beside: tuple[Weights, ...]
    writes: tuple[tuple[int, Weights], ...]
    clip: Clip | None
    draws: bool
    places: tuple[tuple[Place, int], ...]
    after: Mapping[str, Any]

    def row(self) -> list[float]:
        """The step as a row of the kernel's table."""
        row = [0.0] * ROW
        row[TARGETS:BOUNDS] = [-1.0] * (BOUNDS - TARGETS)
        _fill(row, 0, self.result)
        for place, (slot, weights) in enumerate(self.writes):
            _fill(row, (1 + place) * WIDTH, weights)
            row[TARGETS + place] = float(slot)
        if self.clip is not None:
            _fill(row, CLIP, self.clip.weights)
            row[BOUNDS:] = [self.clip.low, self.clip.high]
        return row


@dataclass(frozen=True)
class Program:
    """All steps of a schedule from `start` on, the slots they use, and stock's type of result."""

    start: int
    steps: tuple[Step, ...]
    slots: int
    output: type
    names: tuple[str, ...]
    _tables: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def table(self, device: torch.device) -> torch.Tensor:
        """The kernel's table (steps, ROW) on a device; copied there once, and not waited for."""
        import torch

        if device not in self._tables:
            rows = torch.tensor([step.row() for step in self.steps], dtype=torch.float32)
            if device.type == "cuda":
                rows = rows.pin_memory()
            self._tables[device] = rows.to(device, non_blocking=True)
        found: torch.Tensor = self._tables[device]
        return found


def _fill(row: list[float], start: int, weights: Weights) -> None:
    for column, weight in weights:
        row[start + column] = weight
