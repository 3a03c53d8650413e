"""Which calls of a denoiser's modules are hoisted, and how what they put out is computed ahead."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .hoist_tape import Tape

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Hoisted:
    """A call that is left out of later forwards, and what its output is made of.

    `leaves` has a `Leaf` for each tensor and the rest as it is, `structure` puts them together.
    `tables` tells that it is timed. `flops` and `nbytes`, of its weights, are what a forward is
    spared.
    """

    module: torch.nn.Module
    index: int
    tables: bool
    leaves: tuple[Any, ...]
    structure: Any
    flops: int


@dataclass(frozen=True)
class Leaf:
    """A tensor in an output: its number on the tape, its form, and who needs it.

    `timed` tells whether the timestep goes into it, `needed` whether anything that still runs reads
    it, `repeats` along which dimensions it has the same values again.
    """

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    timed: bool
    needed: bool
    repeats: tuple[int, ...] = ()

    @property
    def values(self) -> int:
        """The number of values in it."""
        return math.prod(self.shape)

    @property
    def held(self) -> tuple[int, ...]:
        """Its shape where nothing is held twice."""
        return tuple(1 if at in self.repeats else size for at, size in enumerate(self.shape))

    @property
    def held_values(self) -> int:
        """The number of values that are held of it."""
        return math.prod(self.held)

    @property
    def run(self) -> int:
        """How many values in a row of it are repeated as a whole."""
        return math.prod(self.shape[max(self.repeats, default=-1) + 1 :])


@dataclass(frozen=True, eq=False)
class HoistPlan:
    """What is hoisted of forwards like one, and how to compute the timed part ahead.

    `constant` are the places of the inputs that it all depends on, `decided` those of them whose
    values Python has looked at while the tape was written. `given` is what the tape reads besides
    the inputs (weights and such), `weights` those that only timed calls use, `read` the places of
    the inputs that it reads, the timestep not among them. `origins` are the
    modules on which it depends what is hoisted and what comes of it.
    """

    hoisted: tuple[Hoisted, ...]
    constant: frozenset[int]
    decided: frozenset[int]
    tape: Tape
    inputs: tuple[int, ...]
    given: dict[int, torch.Tensor]
    weights: tuple[torch.nn.Parameter, ...]
    read: frozenset[int]
    origins: frozenset[torch.nn.Module]
    left: tuple[str, ...]

    @property
    def timed(self) -> tuple[Hoisted, ...]:
        """The calls whose outputs are read from tables."""
        return tuple(each for each in self.hoisted if each.tables)

    def timed_leaves(self) -> Iterator[Leaf]:
        """What tables have to hold, each tensor once."""
        seen = set[int]()
        for each in self.timed:
            for leaf in each.leaves:
                held = isinstance(leaf, Leaf) and leaf.timed and leaf.needed
                if held and leaf.number not in seen:
                    seen.add(leaf.number)
                    yield leaf

    def rows(self) -> dict[torch.dtype, int]:
        """How many values of each dtype a table has for one timestep."""
        found = Counter[Any]()
        for leaf in self.timed_leaves():
            found[leaf.dtype] += leaf.held_values
        return dict(found)

    def table_bytes(self, timesteps: int) -> int:
        """The bytes of the tables for so many timesteps."""
        return timesteps * sum(count * each.itemsize for each, count in self.rows().items())
