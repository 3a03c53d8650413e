"""What sparse attention is set to, and what it measures of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .video_blocks import BlockSize

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Settings:
    """The options of the pass, which says what they mean."""

    keep: float | None
    reach: tuple[int, int, int] | None
    first_steps: float
    first_layers: int
    last_layers: int
    fewest_tokens: int | None
    block_size: BlockSize

    def dense_steps(self, total: int) -> int:
        """How many of the first steps are dense."""
        return round(self.first_steps * total)


class Sums:
    """Numbers that add up on the device."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[Any, int]] = {}

    def add(self, what: str, number: torch.Tensor) -> None:
        """One more."""
        total, count = self._totals.get(what, (0, 0))
        self._totals[what] = total + number, count + 1

    def mean(self, what: str) -> float | None:
        """Their mean, which waits for the device; None where there are none."""
        total, count = self._totals.get(what, (0, 0))
        return float(total) / count if count else None
