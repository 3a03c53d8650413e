"""What is known of a kind of call, what is kept for it, and what answers in its modules' place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .hoist_inputs import Inputs, Sighting
from .hoist_plan import Hoisted, HoistPlan
from .hoist_schedule import Transform
from .hoist_table import Table, output_of

if TYPE_CHECKING:
    import torch

    from ..report import PassRecord


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
    the table begins with the `first`. It is `complete` once a whole forward was answered from it.
    """

    seen: Sequence[Sighting | None]
    device: torch.device
    outputs: dict[Hoisted, tuple[Any, list[Sighting]]] = field(default_factory=dict)
    table: Table | None = None
    schedule: Sighting | None = None
    first: int = 0
    nbytes: int = 0
    complete: bool = False


class Answers:
    """What stands in for the calls of one forward: a row of a table, and what is kept."""

    def __init__(
        self,
        plan: HoistPlan,
        kept: Kept,
        tensors: Mapping[int, torch.Tensor] | None,
        keep: Callable[[Kept, Hoisted, Any], None],
        record: PassRecord,
    ) -> None:
        self.plan = plan
        self.tensors = tensors
        self._kept = kept
        self._keep, self._ran = keep, record.ran
        self._given: Mapping[Hoisted, Any] | None = None
        self._calls = Counter[StandIn]()

    @property
    def complete(self) -> bool:
        """Whether a whole forward was answered before from what is kept."""
        return self._kept.complete

    def finish(self) -> None:
        """The forward is over."""
        self._kept.complete = True

    def call_of(self, stand_in: StandIn) -> int:
        """How many calls of the forward a stand-in has seen before this one."""
        self._calls[stand_in] += 1
        return self._calls[stand_in] - 1

    def answer(self, hoisted: Hoisted, forward: Any, args: Any, kwargs: Any) -> Any:
        """The output of a hoisted call, computed only where there is none yet."""
        if hoisted.tables:
            assert self.tensors is not None
            self._ran["calls answered from tables"] += 1
            return output_of(hoisted, self.tensors, self._kept.device)
        if self._has(hoisted):
            self._ran["constant calls answered"] += 1
            return self._kept.outputs[hoisted][0] if self._given is None else self._given[hoisted]
        output = forward(*args, **kwargs)
        if self._given is None:
            self._keep(self._kept, hoisted, output)
        return output

    def constants(self) -> dict[Hoisted, Any]:
        """The outputs of constant calls that are kept, and nobody has written to."""
        return {each: kept[0] for each, kept in self._kept.outputs.items() if self._has(each)}

    def _has(self, hoisted: Hoisted) -> bool:
        if self._given is not None:
            return hoisted in self._given
        found = self._kept.outputs.get(hoisted)
        return found is not None and all(each.is_still(each.tensor) for each in found[1])

    @contextmanager
    def instead(
        self, tensors: Mapping[int, torch.Tensor] | None, outputs: Mapping[Hoisted, Any]
    ) -> Iterator[Counter[str]]:
        """Answer a forward from these instead, keep nothing, and count what was answered."""
        before = self.tensors, self._given, self._ran, self._calls
        counts = Counter[str]()
        self.tensors, self._given, self._ran, self._calls = tensors, outputs, counts, Counter()
        try:
            yield counts
        finally:
            self.tensors, self._given, self._ran, self._calls = before

    def count(self, answered: Counter[str]) -> None:
        """Count what was answered elsewhere."""
        self._ran.update(answered)


class StandIn:
    """Stands where a module's `forward` is looked up; the calls of these indices are answered."""

    def __init__(self, forward: Any, indices: Mapping[int, Hoisted], answers: Answers) -> None:
        self._forward, self._indices, self._answers = forward, indices, answers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hoisted = self._indices.get(self._answers.call_of(self))
        if hoisted is None:
            return self._forward(*args, **kwargs)
        return self._answers.answer(hoisted, self._forward, args, kwargs)
