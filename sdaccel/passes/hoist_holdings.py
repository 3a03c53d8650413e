"""What a relieved denoiser holds in a generation: outputs, tables, and which weights it spares.

Tables are computed for as many of the coming timesteps as fit into `RESIDENT` bytes, and for the
next ones when those are through. Calls of one kind share a table where it depends on nothing that
tells them apart, as for the two branches of guidance in calls of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .hoist_answers import Cast, Kept, Known
from .hoist_inputs import Inputs, Sighting
from .hoist_plan import HoistPlan
from .hoist_release import RESIDENT, Released, gains_memory, peak_of
from .hoist_report import tell_peak
from .hoist_table import Table
from .hoist_tape import TapeError
from .parking import in_words

if TYPE_CHECKING:
    import torch

    from ..report import PassRecord


class Holdings:
    """All of it, for the denoiser `name`; `max_bytes` bounds outputs and tables together.

    `release` lets weights go that only tables are computed from. `moved` is called when some have
    gone or come back.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        record: PassRecord,
        max_bytes: int,
        release: bool,
        moved: Callable[[], None],
    ) -> None:
        self._name, self._model, self._record = name, model, record
        self._max_bytes, self._release, self._moved = max_bytes, release, moved
        self._released = Released(model)
        self._kept: dict[Any, Kept] = {}

    @property
    def ran(self) -> Counter[str]:
        """What the report counts."""
        return self._record.ran

    def of(self, slot: Any) -> Kept | None:
        """What is kept for a call of a step."""
        return self._kept.get(slot)

    def begin(self, slot: Any, plan: HoistPlan, inputs: Inputs) -> Kept:
        """Keep for a call of a step, from now on, what is computed from these inputs."""
        cast = Cast(plan, inputs.tensors[0].device, self._has_room, self.ran)
        kept = self._kept[slot] = Kept(inputs.sightings(plan.constant), cast)
        return kept

    def drop(self) -> None:
        """Keep nothing of what has been computed."""
        self._kept.clear()

    def end(self) -> None:
        """A generation is over, or begins: drop everything, and tell the peak."""
        if self._released.weights and self._kept:
            device = next(iter(self._kept.values())).cast.device
            tell_peak(self._record, peak_of(device), "since weights left")
        self.drop()

    def bring_back(self) -> None:
        """Let the weights come back that are away."""
        if self._released.bring_back():
            self.ran["returns of weights"] += 1
            self._moved()

    def row(
        self, known: Known, kept: Kept, inputs: Inputs, scheduler: Any, place: int
    ) -> dict[int, torch.Tensor] | None:
        """What depends on the timestep, by number, at a place in the schedule; None without."""
        time = inputs.time
        if not known.plan.timed or known.transform is None or time is None:
            return None
        if kept.schedule is None or not kept.schedule.is_still(scheduler.timesteps):
            kept.schedule = Sighting.of(scheduler.timesteps)
            first = getattr(scheduler, "begin_index", None) or 0
            kept.places, kept.span = range(first, len(scheduler.timesteps)), range(0)
        if place not in kept.span and (place in kept.places or not kept.span):
            self._turn_to(place, known, kept, inputs, time)
        if kept.table is None:
            return None
        row = kept.table.read(inputs.tensors[time], place - kept.span.start)
        self.ran["timesteps that no table has" if row is None else "rows read"] += 1
        return row

    def _turn_to(self, place: int, known: Known, kept: Kept, inputs: Inputs, time: int) -> None:
        """Get the table that has a place, another call's or a new one."""
        other = next(
            (each for each in self._kept.values() if each.serves(kept, place, inputs)), None
        )
        if other is not None:
            kept.span, kept.table = other.span, other.table
            return
        assert kept.schedule is not None
        assert known.transform is not None
        kept.table = None
        plan, timesteps = known.plan, kept.schedule.tensor
        needed = plan.table_bytes(len(kept.places) + 1)
        away = self._release and gains_memory(inputs.tensors[time].device) and needed > RESIDENT
        kept.span = kept.places if away else _span(kept.places, place, plan.table_bytes(1))
        timesteps = known.transform(timesteps[kept.span.start : kept.span.stop])
        kept.table = self._computed(known, inputs, time, timesteps, away)
        if kept.table is None:
            kept.span = kept.places

    def _computed(
        self, known: Known, inputs: Inputs, time: int, timesteps: torch.Tensor, away: bool
    ) -> Table | None:
        """A table for timesteps, within the limit of memory; its weights may go then."""
        plan = known.plan
        needed = plan.table_bytes(len(timesteps) + 1)
        if not away and needed + self._nbytes() > self._max_bytes:
            self._record.note(
                f"{self._name}: tables for {len(timesteps)} timesteps take {in_words(needed)}, "
                f"more than max_bytes={self._max_bytes} allows: computed at every step"
            )
            return None
        try:
            table = Table.computed(plan, inputs.tensors, time, timesteps, away)
        except TapeError as error:
            known.transform = None
            self._record.note(f"{self._name}: no tables: {error}")
            return None
        self.ran["tables computed"] += 1
        self._record.note(
            f"{self._name}: its tables take {in_words(needed)} for {len(timesteps)} timesteps"
            + (", in host memory" if away else "")
        )
        if self._release:
            self._let_go(plan)
        return table

    def _let_go(self, plan: HoistPlan) -> None:
        """Let the weights leave that only tables were computed from."""
        if not plan.weights or not gains_memory(plan.weights[0].device):
            return
        before = peak_of(plan.weights[0].device)
        spared = self._released.release(plan.weights)
        if not spared:
            return
        self.ran["releases of weights"] += 1
        tell_peak(self._record, before, "before weights left")
        of = sum(each.nbytes for each in self._model.parameters())
        self._record.note(
            f"{self._name}: {in_words(spared)} of its {in_words(of)} of weights wait in host memory"
        )
        self._moved()

    def _nbytes(self) -> int:
        tables = {id(each.table): each.table for each in self._kept.values() if each.table}
        held = sum(each.nbytes for each in tables.values())
        return held + sum(each.cast.nbytes for each in self._kept.values())

    def _has_room(self, size: int) -> bool:
        """Whether the output of a constant call can be kept within the limit of memory."""
        if self._nbytes() + size <= self._max_bytes:
            return True
        self._record.note(
            f"{self._name}: some constant outputs are computed at every step, since "
            f"max_bytes={self._max_bytes} are full"
        )
        return False


def _span(places: range, place: int, row: int) -> range:
    """Those of the places around one whose rows, of so many bytes, fit: equal shares of all."""
    tables = tables_for(len(places), row)
    size = -(-len(places) // tables)
    share = min(max(place - places.start, 0) // size, tables - 1)
    return places[share * size : (share + 1) * size]


def tables_for(timesteps: int, row: int) -> int:
    """How many tables one after the other so many timesteps take, of so many bytes each.

    Each has one row more, of NaN.
    """
    fitting = max(RESIDENT // max(row, 1) - 1, 1)
    return max(-(-timesteps // fitting), 1)
