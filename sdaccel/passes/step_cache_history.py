"""What a tensor was at the newest full steps, and what it may be at another one.

Through `order` + 1 values goes a polynomial (Newton's divided differences) in the step's number,
where order 1 and 2 are TaylorSeer's forecasts (Liu et al. 2025), or in the sampler's own time,
whose steps are unequal. It is evaluated by Neville's scheme: one `lerp` for order 1, three for
order 2, and the weights are plain numbers of the host's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class History:
    """Up to `order` + 1 values of one tensor, at increasing points."""

    def __init__(self, order: int) -> None:
        self._order = order
        self._points: list[float] = []
        self._values: list[torch.Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._values)

    @property
    def nbytes(self) -> int:
        """Bytes of the values that are kept."""
        return sum(each.nbytes for each in self._values)

    def keep(self, point: float, value: torch.Tensor) -> None:
        """Take the value at a point; one at the same point, or a later one, is forgotten."""
        before = sum(each < point for each in self._points)
        oldest = max(0, before - self._order)
        self._points = [*self._points[oldest:before], point]
        self._values = [*self._values[oldest:before], value]

    def predict(self, point: float) -> torch.Tensor:
        """The value at a point; with fewer values than the order wants, of a lower order.

        Of order 0 it is the newest value itself, not a copy.
        """
        import torch

        values = self._values
        for width in range(1, len(values)):
            ends = zip(pairwise(values), self._points, self._points[width:], strict=False)
            values = [
                torch.lerp(*pair, (point - first) / (last - first)) for pair, first, last in ends
            ]
        return values[0]
