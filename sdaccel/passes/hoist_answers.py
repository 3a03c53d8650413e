"""What is known of a kind of call, what is kept for it, and what answers in its modules' place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

from .hoist_inputs import Inputs, Sighting
from .hoist_plan import Hoisted, HoistPlan
from .hoist_schedule import Transform
from .hoist_table import Table, output_from

if TYPE_CHECKING:
    import torch

_STAND_IN = "_sdaccel_stand_in"
_CONSTANT, _FROM_TABLES = "constant calls answered", "calls answered from tables"


@dataclass
class Known:
    """What is hoisted of forwards with one key, and how the timestep comes from the scheduler's.

    `decided` are the inputs whose values the plan took for given, by place, as copies.
    """

    plan: HoistPlan
    transform: Transform | None
    decided: Mapping[int, torch.Tensor]
    _same: Sequence[Sighting | None] = ()

    def fits(self, inputs: Inputs) -> bool:
        """Whether the plan holds for these inputs.

        Looks at values where Python has decided something by them, once for each new tensor: the
        model itself waits for the device to do so, at every step.
        """
        import torch

        if not self.decided or (self._same and not inputs.changed(self._same)):
            return True
        if not all(torch.equal(inputs.tensors[at], each) for at, each in self.decided.items()):
            return False
        self._same = inputs.sightings(frozenset(self.decided))
        return True


@dataclass
class Kept:
    """What has been computed in this generation for a step's first call, or its second.

    `seen` are the inputs that it was computed from, `schedule` the scheduler's timesteps, `places`
    those of them that this generation goes through, `span` those that the table is for.
    """

    seen: Sequence[Sighting | None]
    cast: Cast
    table: Table | None = None
    schedule: Sighting | None = None
    places: range = range(0)
    span: range = range(0)

    def serves(self, other: Kept, place: int, inputs: Inputs) -> bool:
        """Whether the table is the one that another call with these inputs needs for a place."""
        plan = self.cast.plan
        if self.table is None or place not in self.span or other.cast.plan is not plan:
            return False
        read = [each if at in plan.read else None for at, each in enumerate(self.seen)]
        return (
            self.schedule is not None
            and other.schedule is not None
            and self.schedule.is_still(other.schedule.tensor)
            and not inputs.changed(read)
        )


class StandIn:
    """Answers for a module; the calls that have an answer get it, the others run as before.

    `answers` are outputs by the call's index within a forward, `kinds` what such a call counts as,
    and `keep` is handed the output of a constant call where there is no answer yet. What it does
    can be compiled: answers that are tensors enter a graph as inputs, and nothing is counted by the
    way.
    """

    def __init__(self, module: torch.nn.Module, keep: Callable[[StandIn, int, Any], None]) -> None:
        self.index = 0
        self.answers: dict[int, Any] = {}
        self.kinds: dict[int, str] = {}
        self.keep: Callable[[StandIn, int, Any], None] | None = keep
        self.fresh: set[int] = set()
        self._own = module.__dict__
        self._before = self._own.get("forward")
        self._instead = MethodType(_answered, module)

    def put_up(self) -> None:
        """Stand where the module's `forward` is looked up, from its first call on."""
        self.index = 0
        self.fresh.clear()
        self._own[_STAND_IN] = self
        self._own["forward"] = self._instead

    def take_down(self) -> None:
        """Give the module the forward back that it had."""
        self._own.pop(_STAND_IN, None)
        if self._before is not None:
            self._own["forward"] = self._before
        else:
            self._own.pop("forward", None)

    def stock(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """What the module puts out by itself."""
        if self._before is not None:
            return self._before(*args, **kwargs)
        return type(module).forward(module, *args, **kwargs)

    def answered(self) -> Iterator[str]:
        """What each call that got an answer counts as, since it was put up."""
        for index in range(self.index):
            if index in self.answers and index not in self.fresh:
                yield self.kinds[index]


def _answered(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Stands in as a module's method: of an object of its own Dynamo would guard the identity."""
    stand_in = module.__dict__[_STAND_IN]
    index = stand_in.index
    stand_in.index = index + 1
    if index in stand_in.answers:
        return stand_in.answers[index]
    output = stand_in.stock(module, args, kwargs)
    if stand_in.kinds.get(index) == _CONSTANT and stand_in.keep is not None:
        stand_in.keep(stand_in, index, output)
    return output


class Cast:
    """The stand-ins of the modules that a plan hoists, and what each of them answers.

    They are put up for the length of one forward: outside of it nobody meets them. `nbytes` are
    those of the constant outputs that are kept, as far as `has_room` for so many allows it. `row`
    is what the forward that is on is answered from; `complete`, whether one went before it that
    left all that is kept.
    """

    def __init__(
        self,
        plan: HoistPlan,
        device: torch.device,
        has_room: Callable[[int], bool],
        ran: Counter[str],
    ) -> None:
        self.nbytes = 0
        self.plan, self.device = plan, device
        self.row: Mapping[int, torch.Tensor] | None = None
        self.complete = False
        self._has_room, self._ran = has_room, ran
        self._timed: list[tuple[StandIn, int, Callable[[Mapping[int, Any]], Any]]] = []
        self._constant: list[tuple[StandIn, int]] = []
        self._hoisted: dict[tuple[StandIn, int], Hoisted] = {}
        self._kept: list[torch.Tensor] = []
        self._versions: list[int] = []
        stand_ins: dict[torch.nn.Module, StandIn] = {}
        for each in plan.hoisted:
            if each.module not in stand_ins:
                stand_ins[each.module] = StandIn(each.module, self._keep)
            stand_in = stand_ins[each.module]
            stand_in.kinds[each.index] = _FROM_TABLES if each.tables else _CONSTANT
            if each.tables:
                self._timed.append((stand_in, each.index, output_from(each, device)))
            else:
                self._hoisted[stand_in, each.index] = each
        self._stand_ins = list(stand_ins.values())

    def put_up(self, row: Mapping[int, torch.Tensor] | None) -> None:
        """Let the stand-ins answer from now on: constant calls, and where there is a row, timed."""
        if self._versions != [each._version for each in self._kept]:
            self._forget()
        self.row = row
        for stand_in, index, output in self._timed:
            if row is not None:
                stand_in.answers[index] = output(row)
            else:
                stand_in.answers.pop(index, None)
        for stand_in in self._stand_ins:
            stand_in.put_up()

    def take_down(self) -> None:
        """Give the modules their forwards back."""
        for stand_in in self._stand_ins:
            stand_in.take_down()

    def finish(self) -> None:
        """The forward is over: what is constant is kept, and what was answered counts."""
        self.complete = True
        for stand_in in self._stand_ins:
            self._ran.update(stand_in.answered())

    def constants(self) -> dict[Hoisted, Any]:
        """The outputs of constant calls that are kept."""
        return {
            self._hoisted[stand_in, index]: stand_in.answers[index]
            for stand_in, index in self._constant
        }

    @contextmanager
    def instead(
        self, row: Mapping[int, torch.Tensor] | None, outputs: Mapping[Hoisted, Any]
    ) -> Iterator[Counter[str]]:
        """Answer a forward from these instead, keep nothing; count at the end what was answered."""
        counts = Counter[str]()
        before = [(each, each.index, each.answers, each.keep) for each in self._stand_ins]
        for each in self._stand_ins:
            each.index, each.answers, each.keep = 0, {}, None
        if row is not None:
            for stand_in, index, output in self._timed:
                stand_in.answers[index] = output(row)
        for (stand_in, index), hoisted in self._hoisted.items():
            if hoisted in outputs:
                stand_in.answers[index] = outputs[hoisted]
        try:
            yield counts
        finally:
            for each, index, answers, keep in before:
                counts.update(each.answered())
                each.index, each.answers, each.keep = index, answers, keep

    def count(self, answered: Counter[str]) -> None:
        """Count what was answered elsewhere."""
        self._ran.update(answered)

    def _keep(self, stand_in: StandIn, index: int, output: Any) -> None:
        """Keep the output of a constant call, unless nobody would count what is written to it."""
        import torch
        from torch.utils import _pytree

        tensors = [each for each in _pytree.tree_leaves(output) if isinstance(each, torch.Tensor)]
        size = sum(each.nbytes for each in tensors)
        if any(each.is_inference() for each in tensors) or not self._has_room(size):
            return
        stand_in.answers[index] = output
        stand_in.fresh.add(index)
        self._constant.append((stand_in, index))
        self._kept += tensors
        self._versions += [each._version for each in tensors]
        self.nbytes += size

    def _forget(self) -> None:
        """Let constant calls be computed anew: one's output was written to in place."""
        self.complete = False
        for stand_in, index in self._constant:
            del stand_in.answers[index]
        self._constant.clear()
        self._kept.clear()
        self._versions.clear()
        self.nbytes = 0
