"""How the rows of a table are laid out: which tensors stand in them, and which of it many times.

A tensor that repeats itself stands in a row once. It is put out as it was, in memory of its own: a
row is taken as runs of equal length, and those that repeat are read several times, by the one copy
that reading a row costs anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .hoist_plan import Leaf


class Layout:
    """The row of one dtype: `columns` has where in it each tensor stands, by number.

    `width` is the number of values that it holds.
    """

    def __init__(self, leaves: Sequence[Leaf], device: torch.device) -> None:
        self._leaves = leaves
        self.columns: dict[int, slice] = {}
        self.width = 0
        for leaf in leaves:
            self.columns[leaf.number] = slice(self.width, self.width + leaf.held_values)
            self.width += leaf.held_values
        self._run = math.gcd(*(leaf.run for leaf in leaves))
        self._runs: torch.Tensor | None = None
        if any(leaf.repeats for leaf in leaves):
            self._runs = self._order().to(device)

    @property
    def nbytes(self) -> int:
        """The bytes that it takes to find what repeats."""
        return 0 if self._runs is None else self._runs.nbytes

    def _order(self) -> torch.Tensor:
        """The runs of a row, as often as they are put out."""
        import torch

        found = []
        for leaf in self._leaves:
            column = self.columns[leaf.number]
            runs = torch.arange(column.start, column.stop, self._run) // self._run
            if leaf.repeats:
                last = max(leaf.repeats) + 1
                runs = runs.view(*leaf.held[:last], -1).expand(*leaf.shape[:last], -1)
            found.append(runs.flatten())
        return torch.cat(found)

    def held(self, leaf: Leaf, value: torch.Tensor) -> torch.Tensor:
        """Of a tensor for all timesteps or for one, (T or 1, *its shape): what rows hold of it."""
        for dimension in leaf.repeats:
            value = value.narrow(dimension + 1, 0, 1)
        return value.reshape(len(value), -1)

    def at(self, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The values of the row whose index (1,) a device knows, with all repetitions."""
        if self._runs is None:
            return rows.index_select(0, index)[0]
        runs = index * (self.width // self._run) + self._runs
        return rows.view(-1, self._run).index_select(0, runs).flatten()

    def of(self, row: torch.Tensor) -> torch.Tensor:
        """A copy of the values of one row, with all repetitions."""
        if self._runs is None:
            return row.clone()
        return row.view(-1, self._run).index_select(0, self._runs).flatten()

    def tensors(self, values: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """The tensors that such values are, by number."""
        parts = values.split([leaf.values for leaf in self._leaves])
        for leaf, part in zip(self._leaves, parts, strict=True):
            yield leaf.number, part.view(leaf.shape)
