"""One denoiser that is relieved of what its forwards would compute again.

In a generation the first forward of its kind is looked at from outside, the second through a
`Probe`, and from the third on, and from the first on in later generations, what was found is left
out: constant outputs are those of an earlier forward, timed ones come from a table. All of it goes
when the generation is over. Before each forward it is asked whether the inputs, the model and the
schedule are still those that everything was computed from; whatever is not is computed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .hoist_inputs import Inputs, Sighting, parameters_of
from .hoist_plan import Hoisted, HoistPlan, names_of, plan_of
from .hoist_release import RESIDENT, Released, gains_memory
from .hoist_schedule import Transform, transform_of
from .hoist_table import Table, output_of
from .hoist_tape import TapeError
from .hoist_watch import Watch
from .parking import in_words
from .standing_in import standing_in

if TYPE_CHECKING:
    import torch

    from ..clock import Clock
    from ..report import PassRecord
    from .hoist_probe import Probe

_PATIENCE = 3
"""How often a generation is looked at anew; a loop that changes something at each step is left."""


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
    outputs: dict[Hoisted, tuple[Any, list[Sighting]]] = field(default_factory=dict)
    table: Table | None = None
    schedule: Sighting | None = None
    first: int = 0
    nbytes: int = 0


class Hoisting:
    """The hooks around a denoiser's forward, and what they keep. `max_bytes` bounds the latter."""

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        clock: Clock,
        record: PassRecord,
        max_bytes: int,
        release: bool,
    ) -> None:
        self._name, self._model, self._clock, self._record = name, model, clock, record
        self._max_bytes, self._release = max_bytes, release
        self._parameters = parameters_of(model)
        self._released = Released(model)
        self._known: dict[Any, Known] = {}
        self._watch: Watch | None = None
        self._seen: dict[Any, list[Sighting]] = {}
        self._kept: dict[Any, Kept] = {}
        self._surprises = 0
        self._open = ExitStack()
        self._probe: tuple[Probe, Inputs, frozenset[int], Any] | None = None

    def before(self, _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The denoiser is about to be called: its forward pre-hook."""
        import torch

        if torch.compiler.is_compiling():
            return
        self._leave()
        if not self._arrive(args, kwargs):
            self._bring_back()

    def after(self, _: Any, __: Any, ___: Any, output: Any) -> None:
        """The denoiser's call is over, with an output unless it was interrupted."""
        import torch

        if torch.compiler.is_compiling():
            return
        probed = self._probe
        self._leave()
        if probed is not None and output is not None:
            self._learn(*probed)

    def forget(self) -> None:
        """A generation begins, or is over: what was computed in the last one goes."""
        self._seen.clear()
        self._kept.clear()
        self._surprises = 0

    def close(self) -> None:
        """Leave the model as it was."""
        self._leave()
        self.forget()
        self._known.clear()
        self._bring_back()

    def _leave(self) -> None:
        self._probe = None
        self._open.close()

    def _arrive(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Prepare for a forward; returns whether it does without the weights of timed modules."""
        import torch

        scheduler = self._clock.scheduler
        if scheduler is None or torch.is_grad_enabled() or self._surprises > _PATIENCE:
            return False
        self._notice_changes()
        inputs = Inputs.of(self._parameters, args, kwargs)
        key = (inputs.key, self._model.training)
        slot = (key, self._clock.step_calls[self._name])
        known = self._known.get(slot) or self._known.get(key)
        if known is not None and known.fits(inputs):
            return self._serve(known, inputs, slot, scheduler)
        seen = self._seen.get(slot)
        if seen is None:
            self._seen[slot] = [Sighting.of(each) for each in inputs.tensors]
        else:
            self._look(inputs, inputs.changed(seen), slot)
        return False

    def _notice_changes(self) -> None:
        """Forget everything about a model that is not what it was."""
        changed = self._watch.has_changed() if self._watch is not None else None
        if changed:
            self._surprise(changed)
            self._watch = None
            self._known.clear()
            self._kept.clear()
            self._seen.clear()

    def _surprise(self, what: str) -> None:
        self._record.ran[f"computed anew, for {what} changed"] += 1
        self._surprises += 1
        if self._surprises > _PATIENCE:
            self._kept.clear()
            self._record.note(f"{self._name}: left alone in a generation that kept changing {what}")

    def _look(self, inputs: Inputs, changed: frozenset[int], slot: Any) -> None:
        """Watch this forward from inside."""
        from .hoist_probe import Probe

        varying = (changed | inputs.sample) - {inputs.time}
        probe = Probe(inputs.tensors, sum(1 << place for place in varying))
        if self._watch is None:
            self._watch = Watch(self._model)
        self._probe = probe, inputs, varying, slot
        self._open.enter_context(probe.watching(self._model))

    def _learn(self, probe: Probe, inputs: Inputs, varying: frozenset[int], slot: Any) -> None:
        """Plan from what a probe has seen."""
        transform = None
        if inputs.time is not None:
            steps = [self._seen[slot][inputs.time].tensor, inputs.tensors[inputs.time]]
            transform = transform_of(self._clock.scheduler, steps)
            if transform is None:
                self._record.note(
                    f"{self._name}: its timesteps are not the scheduler's; what depends on them is "
                    "computed at every step"
                )
        plan = plan_of(probe, inputs, varying, with_tables=transform is not None)
        decided = {place: inputs.tensors[place].clone() for place in plan.decided}
        self._known[slot if decided else slot[0]] = Known(plan, transform, decided)
        self._tell(plan)
        if self._watch is not None:
            self._watch.watch(plan.given.values())
            for each in plan.hoisted:
                self._watch.watch([*each.module.parameters(), *each.module.buffers()])

    def _serve(self, known: Known, inputs: Inputs, slot: Any, scheduler: Any) -> bool:
        """Leave out of this forward what is hoisted; returns whether tables are read."""
        kept = self._kept.get(slot)
        changed = inputs.changed(kept.seen) if kept is not None else frozenset()
        if kept is None or changed:
            if changed:
                self._surprise(inputs.told(changed))
            kept = self._kept[slot] = Kept(inputs.sightings(known.plan.constant))
        tensors = self._read_table(known, kept, inputs, scheduler)
        calls: dict[torch.nn.Module, dict[int, Hoisted]] = {}
        for each in known.plan.hoisted:
            if tensors is not None or not each.tables:
                calls.setdefault(each.module, {})[each.index] = each
        answers = _Answers(kept, tensors, inputs.tensors[0].device, self._keep, self._record)
        forwards = {
            module: _StandIn(module.forward, indices, answers) for module, indices in calls.items()
        }
        self._open.enter_context(standing_in(forwards))
        return tensors is not None

    def _read_table(
        self, known: Known, kept: Kept, inputs: Inputs, scheduler: Any
    ) -> dict[int, torch.Tensor] | None:
        """This step's row of what depends on the timestep, by number; None where there is none."""
        plan, transform, time = known.plan, known.transform, inputs.time
        if not plan.timed or transform is None or time is None:
            return None
        if kept.schedule is None or not kept.schedule.is_still(scheduler.timesteps):
            kept.schedule = Sighting.of(scheduler.timesteps)
            kept.first = getattr(scheduler, "begin_index", None) or 0
            timesteps = transform(scheduler.timesteps[kept.first :])
            kept.table = self._computed(known, inputs.tensors, time, timesteps)
        if kept.table is None:
            return None
        place = self._clock.locate(inputs.tensors[time]) - kept.first
        row = kept.table.read(inputs.tensors[time], place)
        self._record.ran["timesteps that no table has" if row is None else "rows read"] += 1
        return row

    def _computed(
        self, known: Known, inputs: Sequence[torch.Tensor], time: int, timesteps: torch.Tensor
    ) -> Table | None:
        """A table for a schedule, within the limit of memory; its weights may go then."""
        plan = known.plan
        needed = plan.table_bytes(len(timesteps) + 1)
        away = self._release and gains_memory(timesteps.device) and needed > RESIDENT
        if not away and needed + self._nbytes() > self._max_bytes:
            self._record.note(
                f"{self._name}: tables for {len(timesteps)} timesteps take {in_words(needed)}, "
                f"more than max_bytes={self._max_bytes} allows: computed at every step"
            )
            return None
        try:
            table = Table.computed(plan, inputs, time, timesteps, away)
        except TapeError as error:
            known.transform = None
            self._record.note(f"{self._name}: no tables: {error}")
            return None
        self._record.ran["tables computed"] += 1
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
        told = self._released.release(plan.weights)
        if told is not None:
            self._record.ran["releases of weights"] += 1
            self._record.note(f"{self._name}: {told}")
            if self._watch is not None:
                self._watch.renew()

    def _bring_back(self) -> None:
        if self._released.bring_back():
            self._record.ran["returns of weights"] += 1
            if self._watch is not None:
                self._watch.renew()

    def _nbytes(self) -> int:
        tables = [each.table.nbytes for each in self._kept.values() if each.table is not None]
        return sum(tables) + sum(each.nbytes for each in self._kept.values())

    def _keep(self, kept: Kept, hoisted: Hoisted, output: Any) -> None:
        """Keep the output of a constant call, where the limit of memory allows it."""
        import torch
        from torch.utils import _pytree

        tensors = [each for each in _pytree.tree_leaves(output) if isinstance(each, torch.Tensor)]
        size = sum(each.nbytes for each in tensors)
        if self._nbytes() + size > self._max_bytes:
            self._record.note(
                f"{self._name}: some constant outputs are computed at every step, since "
                f"max_bytes={self._max_bytes} are full"
            )
            return
        kept.outputs[hoisted] = output, [Sighting.of(each) for each in tensors]
        kept.nbytes += size

    def _tell(self, plan: HoistPlan) -> None:
        """Report what a plan leaves out."""
        record, name = self._record, self._name
        for reason in plan.left:
            record.note(f"{name}: {reason}; it is computed at every step")
        for tables, what in ((False, "computed once"), (True, "from tables")):
            calls = [each for each in plan.hoisted if each.tables == tables]
            if not calls:
                continue
            modules = {each.module for each in calls}
            weights = {id(w): w.nbytes for each in modules for w in each.parameters()}
            record.changed[f"{name} modules {what}"] = len(modules)
            record.note(
                f"{name}: {what}: {', '.join(names_of(modules, self._model))}; spares a forward "
                f"{in_words(sum(weights.values()))} of weights and "
                f"{sum(each.flops for each in calls) / 1e9:.3g} GFLOP"
            )


class _Answers:
    """What stands in for the calls of one forward."""

    def __init__(
        self,
        kept: Kept,
        tensors: Mapping[int, torch.Tensor] | None,
        device: Any,
        keep: Callable[[Kept, Hoisted, Any], None],
        record: PassRecord,
    ) -> None:
        self._kept, self._tensors, self._device = kept, tensors, device
        self._keep, self._ran = keep, record.ran

    def answer(self, hoisted: Hoisted, forward: Any, args: Any, kwargs: Any) -> Any:
        """The output of a hoisted call, computed only where there is none yet."""
        if hoisted.tables:
            assert self._tensors is not None
            self._ran["calls answered from tables"] += 1
            return output_of(hoisted, self._tensors, self._device)
        found = self._kept.outputs.get(hoisted)
        if found is not None and all(each.is_still(each.tensor) for each in found[1]):
            self._ran["constant calls answered"] += 1
            return found[0]
        output = forward(*args, **kwargs)
        self._keep(self._kept, hoisted, output)
        return output


class _StandIn:
    """Stands where a module's `forward` is looked up; the calls of these indices are answered."""

    def __init__(self, forward: Any, indices: Mapping[int, Hoisted], answers: _Answers) -> None:
        self._forward, self._indices, self._answers = forward, indices, answers
        self._index = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hoisted = self._indices.get(self._index)
        self._index += 1
        if hoisted is None:
            return self._forward(*args, **kwargs)
        return self._answers.answer(hoisted, self._forward, args, kwargs)
