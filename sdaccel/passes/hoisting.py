"""One denoiser that is relieved of what its forwards would compute again.

In a generation the first forward of its kind is looked at from outside, the second through a
`Probe`, and from the third on, and from the first on in later generations, what was found is left
out: constant outputs are those of an earlier forward, timed ones come from a table. All of it goes
when the generation is over. Before each forward it is asked whether the inputs, the model and the
schedule are still those that everything was computed from; whatever is not is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .hoist_answers import Cast, Kept, Known
from .hoist_inputs import Inputs, Sighting, parameters_of
from .hoist_plan import HoistPlan, plan_of
from .hoist_release import RESIDENT, Released, gains_memory, peak_of
from .hoist_report import tell_peak, tell_plan
from .hoist_schedule import transform_of
from .hoist_table import Table
from .hoist_tape import TapeError
from .hoist_watch import Watch
from .parking import in_words
from .step_cache_paths import CACHE

if TYPE_CHECKING:
    import torch

    from ..clock import Clock
    from ..report import PassRecord
    from .hoist_probe import Probe

_PATIENCE = 3
"""How often a generation is looked at anew; a loop that changes something at each step is left."""
_MOST_KEPT = 16
"""Kinds of calls that are remembered: sizes of picture, lengths of text, with guidance or not."""


class Hoisting:
    """The hooks around a denoiser's forward, and what they keep. `max_bytes` bounds the latter.

    `compiled` has the `id` of each module that runs compiled.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        clock: Clock,
        record: PassRecord,
        max_bytes: int,
        release: bool,
        compiled: frozenset[int] = frozenset(),
    ) -> None:
        self._name, self._model, self._clock, self._record = name, model, clock, record
        self._max_bytes, self._release, self._compiled = max_bytes, release, compiled
        self._parameters = parameters_of(model)
        self._released = Released(model)
        self._known: dict[Any, Known] = {}
        self._watch: Watch | None = None
        self._seen: dict[Any, list[Sighting]] = {}
        self._kept: dict[Any, Kept] = {}
        self._surprises = 0
        self.cast: Cast | None = None
        self._open = ExitStack()
        self._probe: tuple[Probe, Inputs, frozenset[int], Any, list[torch.Tensor]] | None = None

    def before(self, host: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The denoiser is about to be called: its forward pre-hook."""
        import torch

        if torch.compiler.is_compiling():
            return
        self._leave()
        cache = host.__dict__.get(CACHE)
        if cache is not None and cache.leaves_out_all:
            return
        if not self._arrive(args, kwargs):
            self._bring_back()

    def after(self, _: Any, __: Any, ___: Any, output: Any) -> None:
        """The denoiser's call is over, with an output unless it was interrupted."""
        import torch

        if torch.compiler.is_compiling():
            return
        probed = self._probe
        if self.cast is not None and output is not None:
            self.cast.finish()
        self._leave()
        if probed is not None and output is not None:
            self._learn(*probed)

    def forget(self) -> None:
        """A generation begins, or is over: what was computed in the last one goes."""
        if self._released.weights and self._kept:
            device = next(iter(self._kept.values())).cast.device
            tell_peak(self._record, peak_of(device), "since weights left")
        self._seen.clear()
        self._kept.clear()
        self._surprises = 0

    def close(self) -> None:
        """Leave the model as it was."""
        self._leave()
        self.forget()
        self._known.clear()
        self._bring_back()

    @property
    def looking(self) -> bool:
        """Whether the forward that is on is looked at from inside."""
        return self._probe is not None

    def _leave(self) -> None:
        if self.cast is not None:
            self.cast.take_down()
            self.cast = None
        if self._probe is not None:
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
        seen = self._seen.pop(slot, None)
        if known is not None and known.fits(inputs):
            return self._serve(known, inputs, slot, scheduler)
        if seen is not None:
            self._look(inputs, seen, slot)
        elif len(self._seen) < _MOST_KEPT:
            self._seen[slot] = [Sighting.of(each) for each in inputs.tensors]
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

    def _look(self, inputs: Inputs, seen: Sequence[Sighting], slot: Any) -> None:
        """Watch this forward from inside; it was `seen` at an earlier step."""
        from .hoist_probe import Probe

        varying = (inputs.changed(seen) | inputs.sample) - {inputs.time}
        probe = Probe(self._model, inputs.tensors, sum(1 << place for place in varying))
        times = [] if inputs.time is None else [seen[inputs.time].tensor]
        times += [] if inputs.time is None else [inputs.tensors[inputs.time]]
        self._probe = probe, inputs, varying, slot, times
        self._open.enter_context(probe.watching())

    def _learn(
        self,
        probe: Probe,
        inputs: Inputs,
        varying: frozenset[int],
        slot: Any,
        times: list[torch.Tensor],
    ) -> None:
        """Plan from what a probe has seen."""
        transform = None
        if times:
            transform = transform_of(self._clock.scheduler, times)
            if transform is None:
                self._record.note(
                    f"{self._name}: its timesteps are not the scheduler's; what depends on them is "
                    "computed at every step"
                )
        plan = plan_of(probe, inputs, varying, transform is not None, self._compiled)
        decided = {place: inputs.tensors[place].clone() for place in plan.decided}
        while len(self._known) >= _MOST_KEPT:
            del self._known[next(iter(self._known))]
        self._known[slot if decided else slot[0]] = Known(plan, transform, decided)
        tell_plan(self._record, self._name, self._model, plan)
        if self._watch is None:
            self._watch = Watch()
        self._watch.attributes += probe.attributes.values()
        weights = (tensor for each in plan.hoisted for tensor in _weights_of(each.module))
        self._watch.watch(plan.origins, [*plan.given.values(), *weights])

    def _serve(self, known: Known, inputs: Inputs, slot: Any, scheduler: Any) -> bool:
        """Leave out of this forward what is hoisted; returns whether tables are read."""
        kept = self._kept.get(slot)
        changed = inputs.changed(kept.seen) if kept is not None else frozenset()
        if kept is None or changed:
            if changed:
                self._surprise(inputs.told(changed))
            device = inputs.tensors[0].device
            cast = Cast(known.plan, device, self._has_room, self._record.ran)
            kept = self._kept[slot] = Kept(inputs.sightings(known.plan.constant), cast)
        row = self._read_table(known, kept, inputs, scheduler)
        self.cast = kept.cast
        kept.cast.put_up(row)
        return row is not None

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
        before = peak_of(plan.weights[0].device)
        spared = self._released.release(plan.weights)
        if not spared:
            return
        self._record.ran["releases of weights"] += 1
        tell_peak(self._record, before, "before weights left")
        of = sum(each.nbytes for each in self._model.parameters())
        self._record.note(
            f"{self._name}: {in_words(spared)} of its {in_words(of)} of weights wait in host memory"
        )
        if self._watch is not None:
            self._watch.renew()

    def _bring_back(self) -> None:
        if self._released.bring_back():
            self._record.ran["returns of weights"] += 1
            if self._watch is not None:
                self._watch.renew()

    def _nbytes(self) -> int:
        tables = [each.table.nbytes for each in self._kept.values() if each.table is not None]
        return sum(tables) + sum(each.cast.nbytes for each in self._kept.values())

    def _has_room(self, size: int) -> bool:
        """Whether the output of a constant call can be kept within the limit of memory."""
        if self._nbytes() + size <= self._max_bytes:
            return True
        self._record.note(
            f"{self._name}: some constant outputs are computed at every step, since "
            f"max_bytes={self._max_bytes} are full"
        )
        return False


def _weights_of(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
