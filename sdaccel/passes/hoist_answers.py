"""What is known of a kind of call, what is kept for it, and what answers in its modules' place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .hoist_inputs import Inputs, Sighting
from .hoist_plan import Hoisted, HoistPlan
from .hoist_schedule import Transform
from .hoist_table import Table, output_from

if TYPE_CHECKING:
    import torch

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

    `seen` are the inputs that it was computed from, `schedule` the scheduler's timesteps, of which
    the table begins with the `first`.
    """

    seen: Sequence[Sighting | None]
    cast: Cast
    table: Table | None = None
    schedule: Sighting | None = None
    first: int = 0


class StandIn:
    """Stands where a module's `forward` is looked up; the calls that have an answer get it.

    `answers` are outputs by the call's index within a forward, `kinds` what such a call counts as,
    and `keep` is handed the output of a constant call where there is no answer yet.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        keep: Callable[[StandIn, int, Any], None],
        ran: Counter[str],
    ) -> None:
        self.index = 0
        self.answers: dict[int, Any] = {}
        self.kinds: dict[int, str] = {}
        self.keep: Callable[[StandIn, int, Any], None] | None = keep
        self.ran = ran
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        index = self.index
        self.index = index + 1
        if index in self.answers:
            self.ran[self.kinds[index]] += 1
            return self.answers[index]
        output = type(self._module).forward(self._module, *args, **kwargs)
        if self.keep is not None and self.kinds.get(index) == _CONSTANT:
            self.keep(self, index, output)
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
                stand_ins[each.module] = StandIn(each.module, self._keep, ran)
            stand_in = stand_ins[each.module]
            stand_in.kinds[each.index] = _FROM_TABLES if each.tables else _CONSTANT
            if each.tables:
                self._timed.append((stand_in, each.index, output_from(each, device)))
            else:
                self._hoisted[stand_in, each.index] = each
        self._places = [(module.__dict__, each) for module, each in stand_ins.items()]

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
        for own, stand_in in self._places:
            stand_in.index = 0
            own["forward"] = stand_in

    def take_down(self) -> None:
        """Give the modules their forwards back; none that has one of its own is hoisted."""
        for own, _ in self._places:
            own.pop("forward", None)

    def finish(self) -> None:
        """The forward is over, and what is constant is kept."""
        self.complete = True

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
        """Answer a forward from these instead, keep nothing, and count what was answered."""
        counts = Counter[str]()
        stand_ins = [stand_in for _, stand_in in self._places]
        before = [(each.index, each.answers, each.keep, each.ran) for each in stand_ins]
        for each in stand_ins:
            each.index, each.answers, each.keep, each.ran = 0, {}, None, counts
        if row is not None:
            for stand_in, index, output in self._timed:
                stand_in.answers[index] = output(row)
        for (stand_in, index), hoisted in self._hoisted.items():
            if hoisted in outputs:
                stand_in.answers[index] = outputs[hoisted]
        try:
            yield counts
        finally:
            for each, kept in zip(stand_ins, before, strict=True):
                each.index, each.answers, each.keep, each.ran = kept

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
