"""What modules put out at every timestep of a schedule, and the row for the step that is on.

A row is found on the device, by the timestep's value: nothing waits for the host, and a timestep
that no row was computed for gets NaN, never another's row. On a CPU, where looking costs nothing,
the caller is told instead.

A table that is to spare the device waits in host memory. Its row comes by its place in the
schedule, and what the device looks at is whether its timestep is the one that is asked for.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .hoist_layout import Layout
from .hoist_plan import Hoisted, HoistPlan, Leaf

if TYPE_CHECKING:
    import torch

    _Values = Mapping[torch.dtype, torch.Tensor]
    """A row: its values in each dtype."""


@dataclass
class Table:
    """Rows for `timesteps` (T, ...), each for one dtype's values, on the device or `away` from it.

    `rows` has one tensor (T + 1, values) for each dtype, the last row of NaN. By number, `shared`
    has what does not depend on the timestep after all, `given` what was not computed at all.
    `on_host` tells that looking at a timestep waits for nothing.
    """

    timesteps: torch.Tensor
    plan: HoistPlan
    away: bool = False
    rows: dict[torch.dtype, torch.Tensor] = field(default_factory=dict)
    shared: dict[int, torch.Tensor] = field(default_factory=dict)
    given: dict[int, torch.Tensor] = field(default_factory=dict)
    on_host: bool = field(init=False)
    _layouts: dict[torch.dtype, Layout] = field(init=False)

    def __post_init__(self) -> None:
        device = self.timesteps.device
        self.on_host = device.type == "cpu"
        leaves: dict[torch.dtype, list[Leaf]] = {}
        for leaf in self.plan.timed_leaves():
            leaves.setdefault(leaf.dtype, []).append(leaf)
        self._layouts = {dtype: Layout(each, device) for dtype, each in leaves.items()}

    @classmethod
    def computed(
        cls,
        plan: HoistPlan,
        inputs: Sequence[torch.Tensor],
        time: int,
        timesteps: torch.Tensor,
        away: bool = False,
    ) -> Table:
        """Run the tape of a plan for all timesteps; raises `TapeError` where that can't be done."""
        table = cls(timesteps, plan, away)
        table._make_room()
        leaves = {leaf.number: leaf for leaf in plan.timed_leaves()}
        given = {**plan.given, **dict(zip(plan.inputs, inputs, strict=True))}

        def keep(number: int, value: torch.Tensor, batched: bool) -> None:
            if number in leaves:
                table._hold(leaves[number], value if batched else value[None])
            elif number in given and not batched:
                table.given[number] = value
            else:  # a copy: later operations of the tape may write to it in place
                table.shared[number] = (value[0] if batched else value).clone()

        number = plan.inputs[time]
        del given[number]
        plan.tape.run(given, {number: timesteps}, keep)
        return table

    def _hold(self, leaf: Leaf, value: torch.Tensor) -> None:
        layout = self._layouts[leaf.dtype]
        rows = self.rows[leaf.dtype][:-1, layout.columns[leaf.number]]
        rows.copy_(layout.held(leaf, value))

    def _make_room(self) -> None:
        import torch

        device = self.timesteps.device
        pinned = self.away and device.type == "cuda"
        for dtype, layout in self._layouts.items():
            shape, where = (len(self.timesteps) + 1, layout.width), "cpu" if self.away else device
            rows = torch.empty(shape, dtype=dtype, device=where, pin_memory=pinned)
            rows[-1].fill_(float("nan"))
            self.rows[dtype] = rows

    @property
    def nbytes(self) -> int:
        """The bytes that it takes of the device."""
        rows = [] if self.away else list(self.rows.values())
        found = sum(each.nbytes for each in self._layouts.values())
        return found + sum(each.nbytes for each in (*rows, *self.shared.values()))

    def read(self, timestep: torch.Tensor, place: int) -> dict[int, torch.Tensor] | None:
        """The tensors of a timestep's row, by number; but for `given` they are nobody else's.

        `place` is where the timestep stands in the schedule. None where the table doesn't have it,
        as far as that is known without waiting for a device.
        """
        find = self._found_here if self.on_host else self._found_there
        values = find(timestep, place)
        if values is None:
            return None
        found = {number: each.clone() for number, each in self.shared.items()} | self.given
        for dtype, layout in self._layouts.items():
            found.update(layout.tensors(values[dtype]))
        return found

    def _found_here(self, timestep: torch.Tensor, place: int) -> _Values | None:
        """Of a timestep on the host: its row is looked for first where it should be."""
        import torch

        if not (0 <= place < len(self.timesteps) and torch.equal(self.timesteps[place], timestep)):
            same = self._same(timestep)
            if not bool(same.any()):
                return None
            place = int(same.to(torch.uint8).argmax())
        return {dtype: each.of(self.rows[dtype][place]) for dtype, each in self._layouts.items()}

    def _found_there(self, timestep: torch.Tensor, place: int) -> _Values | None:
        """Of a timestep on a device, at which the host doesn't look."""
        same = self._same(timestep)
        if self.away and not 0 <= place < len(same):
            return None
        known = same[place] if self.away else same.any()
        return {dtype: self._row(dtype, same, known, place) for dtype in self.rows}

    def _same(self, timestep: torch.Tensor) -> torch.Tensor:
        """Which rows are this timestep's, (T,) of truth values on its device."""
        return (self.timesteps == timestep).reshape(len(self.timesteps), -1).all(1)

    def _row(self, dtype: Any, same: Any, known: Any, place: int) -> torch.Tensor:
        import torch

        rows, layout = self.rows[dtype], self._layouts[dtype]
        if self.away:
            row = rows[place].to(same.device, non_blocking=True, copy=True)
            return layout.of(torch.where(known, row, float("nan")))
        index = torch.where(known, same.to(torch.uint8).argmax(), len(same))
        return layout.at(rows, index.reshape(1))


def output_from(hoisted: Hoisted, device: Any) -> Callable[[Mapping[int, torch.Tensor]], Any]:
    """What makes the output of a hoisted call from a row's tensors by number.

    One that nobody reads is a NaN as large as it: whoever did read it would notice.
    """
    import torch
    from torch.utils import _pytree

    leaves, structure = list(hoisted.leaves), hoisted.structure
    numbers: dict[int, int] = {}
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Leaf) and leaf.needed:
            numbers[place] = leaf.number
        elif isinstance(leaf, Leaf):
            nan = torch.full((), float("nan"), dtype=leaf.dtype, device=device)
            leaves[place] = nan.expand(leaf.shape)

    def output(row: Mapping[int, torch.Tensor]) -> Any:
        found = list(leaves)
        for place, number in numbers.items():
            found[place] = row[number]
        return _pytree.tree_unflatten(found, structure)

    if not numbers:
        unread = output({})
        return lambda _: unread
    return operator.itemgetter(numbers[0]) if structure.is_leaf() else output
