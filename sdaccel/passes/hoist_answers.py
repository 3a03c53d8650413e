"""What is known of a kind of call, what is kept for it, and what answers in its modules' place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    the table begins with the `first`.
    """

    seen: Sequence[Sighting | None]
    device: torch.device
    outputs: dict[Hoisted, tuple[Any, list[Sighting]]] = field(default_factory=dict)
    table: Table | None = None
    schedule: Sighting | None = None
    first: int = 0
    nbytes: int = 0


class Answers:
    """What stands in for the calls of one forward."""

    def __init__(
        self,
        kept: Kept,
        tensors: Mapping[int, torch.Tensor] | None,
        keep: Callable[[Kept, Hoisted, Any], None],
        record: PassRecord,
    ) -> None:
        self._kept, self._tensors = kept, tensors
        self._keep, self._ran = keep, record.ran

    def answer(self, hoisted: Hoisted, forward: Any, args: Any, kwargs: Any) -> Any:
        """The output of a hoisted call, computed only where there is none yet."""
        if hoisted.tables:
            assert self._tensors is not None
            self._ran["calls answered from tables"] += 1
            return output_of(hoisted, self._tensors, self._kept.device)
        found = self._kept.outputs.get(hoisted)
        if found is not None and all(each.is_still(each.tensor) for each in found[1]):
            self._ran["constant calls answered"] += 1
            return found[0]
        output = forward(*args, **kwargs)
        self._keep(self._kept, hoisted, output)
        return output


class StandIn:
    """Stands where a module's `forward` is looked up; the calls of these indices are answered."""

    def __init__(self, forward: Any, indices: Mapping[int, Hoisted], answers: Answers) -> None:
        self._forward, self._indices, self._answers = forward, indices, answers
        self._index = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hoisted = self._indices.get(self._index)
        self._index += 1
        if hoisted is None:
            return self._forward(*args, **kwargs)
        return self._answers.answer(hoisted, self._forward, args, kwargs)
