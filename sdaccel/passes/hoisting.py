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

from .hoist_answers import Cast, Known
from .hoist_choice import plan_of
from .hoist_holdings import Holdings
from .hoist_inputs import Inputs, Sighting, parameters_of
from .hoist_report import tell_plan
from .hoist_schedule import transform_of
from .hoist_watch import Watch
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
        self._compiled = compiled
        self._parameters = parameters_of(model)
        self._holdings = Holdings(name, model, record, max_bytes, release, self._renew)
        self._known: dict[Any, Known] = {}
        self._watch: Watch | None = None
        self._seen: dict[Any, list[Sighting]] = {}
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
            self._holdings.bring_back()

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
        self._holdings.end()
        self._seen.clear()
        self._surprises = 0

    def close(self) -> None:
        """Leave the model as it was."""
        self._leave()
        self.forget()
        self._known.clear()
        self._holdings.bring_back()

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
            self._holdings.drop()
            self._seen.clear()

    def _surprise(self, what: str) -> None:
        self._record.ran[f"computed anew, for {what} changed"] += 1
        self._surprises += 1
        if self._surprises > _PATIENCE:
            self._holdings.drop()
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
        kept = self._holdings.of(slot)
        changed = inputs.changed(kept.seen) if kept is not None else frozenset()
        if changed:
            self._surprise(inputs.told(changed))
        if kept is None or changed:
            kept = self._holdings.begin(slot, known.plan, inputs)
        place = 0 if inputs.time is None else self._clock.locate(inputs.tensors[inputs.time])
        row = self._holdings.row(known, kept, inputs, scheduler, place)
        self.cast = kept.cast
        kept.cast.put_up(row)
        return row is not None

    def _renew(self) -> None:
        """Weights have gone or come back: they are right as they are."""
        if self._watch is not None:
            self._watch.renew()


def _weights_of(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
