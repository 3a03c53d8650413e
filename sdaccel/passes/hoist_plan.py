"""Which calls of a denoiser's modules are hoisted, from what a probe has seen.

Those of the outermost modules whose output the latents have no part in: *constant* ones, whose
output is made of inputs that don't change from step to step, and *timed* ones, into whose output
the timestep goes as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .hoist_compiled import computed_inside
from .hoist_tape import Ref, Tape

if TYPE_CHECKING:
    import torch

    from .hoist_inputs import Inputs
    from .hoist_probe import Call, Probe


_MOST_ROWS = 16
"""Of a table, for a timestep and a sample: modulations have one or six, tokens of text hundreds."""


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
    it.
    """

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    timed: bool
    needed: bool

    @property
    def values(self) -> int:
        """The number of values in it."""
        count = 1
        for each in self.shape:
            count *= each
        return count


@dataclass(frozen=True, eq=False)
class HoistPlan:
    """What is hoisted of forwards like one, and how to compute the timed part ahead.

    `constant` are the places of the inputs that it all depends on, `decided` those of them whose
    values Python has looked at while the tape was written. `given` is what the tape reads besides
    the inputs (weights and such), `weights` those that only timed calls use. `origins` are the
    modules on which it depends what is hoisted and what comes of it.
    """

    hoisted: tuple[Hoisted, ...]
    constant: frozenset[int]
    decided: frozenset[int]
    tape: Tape
    inputs: tuple[int, ...]
    given: dict[int, torch.Tensor]
    weights: tuple[torch.nn.Parameter, ...]
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
            found[leaf.dtype] += leaf.values
        return dict(found)

    def table_bytes(self, timesteps: int) -> int:
        """The bytes of the tables for so many timesteps."""
        return timesteps * sum(count * each.itemsize for each, count in self.rows().items())


def plan_of(
    probe: Probe,
    inputs: Inputs,
    varying: frozenset[int],
    with_tables: bool = True,
    compiled: frozenset[int] = frozenset(),
) -> HoistPlan:
    """Choose what to hoist. `varying` are the places of the inputs that change, time's not.

    `compiled` has the `id` of each module that runs compiled.
    """
    time = 1 << inputs.time if inputs.time is not None else 0
    never = sum(1 << place for place in varying) | probe.unknown
    left: list[str] = []
    if with_tables and probe.writes_outside:
        with_tables = False
        left.append("what depends on the timestep is computed by writing to weights")
    if with_tables and probe.leaked & time:
        with_tables = False
        left.append("its code looks at the timestep's value")
    rows = _MOST_ROWS * (inputs.tensors[inputs.time].numel() if inputs.time is not None else 1)
    staying = {each for each in probe.calls if not _can_go(each, never)}
    staying.update(computed_inside(probe, time, compiled))
    if not with_tables:
        staying |= {each for each in probe.calls if each.labels & time}
    chosen, needed = _chosen(probe, staying, time, rows)
    hoisted = tuple(_hoisted(each, probe, time, needed) for each in probe.calls if each in chosen)
    calls = [each for each in probe.calls if each in chosen]
    targets = {
        leaf.number: call
        for call, each in zip(calls, hoisted, strict=True)
        if each.tables
        for leaf in each.leaves
        if isinstance(leaf, Leaf) and leaf.needed
    }
    tape = Tape.leading_to(targets, probe.steps)
    reads = tape.reads()
    labels = [each.labels for each in chosen]
    places = range(len(inputs.tensors))
    constant = frozenset(
        place
        for place in places
        if place != inputs.time and any(each >> place & 1 for each in labels)
    )
    return HoistPlan(
        hoisted,
        constant,
        frozenset(place for place in constant if probe.leaked >> place & 1),
        tape,
        tuple(probe.inputs),
        {each: probe.outside[each] for each in reads - set(probe.inputs) if each in probe.outside},
        _only_timed(probe, chosen, time),
        _origins(probe, chosen),
        tuple(left),
    )


def _chosen(
    probe: Probe, staying: set[Call], time: int, rows: int
) -> tuple[set[Call], set[int] | None]:
    """The outermost calls that can go, and the numbers of what the rest still reads.

    A call whose table would have more than so many `rows` for a timestep stays; then something else
    may be read after all, so it is chosen again until nothing changes.
    """
    while True:
        chosen: set[Call] = set()
        for call in probe.calls:
            if call not in staying and chosen.isdisjoint(call.lineage()):
                chosen.add(call)
        # a constant call still runs once, so what it reads has to be there
        needed = _needed(probe, {each for each in chosen if each.labels & time})
        large = {each for each in chosen if _rows(each, probe, time, needed) > rows}
        if not large:
            return chosen, needed
        staying |= large


def _can_go(call: Call, never: int) -> bool:
    """Whether a call's output can stand for the call."""
    if not call.whole or not call.pure or not call.steps or call.labels & never:
        return False
    return bool(call.leaf_labels) and not any(map(_has_hooks, call.module.modules()))


def _rows(call: Call, probe: Probe, time: int, needed: set[int] | None) -> int:
    """The most rows of channels that an output has which tables must hold; of integers too many."""
    tensors = [each.number for each in call.leaves if isinstance(each, Ref)]
    held = [
        probe.numbered[number]
        for number, labels in zip(tensors, call.leaf_labels, strict=True)
        if labels & time and (needed is None or number in needed)
    ]
    if any(not (each.is_floating_point() or each.is_complex()) for each in held):
        return 1 << 62
    return max((each.shape[:-1].numel() for each in held), default=0)


def _has_hooks(module: torch.nn.Module) -> bool:
    """Whether somebody has hung something on a module that a table would leave out."""
    from .compiled_region import Region

    own = module.__dict__.get("forward")
    replaced = own is not None and not isinstance(own, Region)
    return bool(module._forward_hooks or module._forward_pre_hooks or replaced)


def _needed(probe: Probe, gone: set[Call]) -> set[int] | None:
    """The numbers of what something may read outside of calls that are gone; None: of everything.

    What nobody has read in this forward, a call may read that was skipped in it. Where that happens
    by a hook, as step caches skip blocks, or by a value, nothing is known of other forwards.
    """
    others = (each for each in probe.model.modules() if each is not probe.model)
    if probe.lost or probe.leaked & probe.never or any(map(_has_hooks, others)):
        return None
    inside, outside = set[int](), set[int]()
    for step in probe.steps:
        is_gone = step.call is not None and not gone.isdisjoint(step.call.lineage())
        (inside if is_gone else outside).update(step.uses)
    outputs = {leaf.number for each in gone for leaf in each.leaves if isinstance(leaf, Ref)}
    return outside | (outputs - inside)


def _hoisted(call: Call, probe: Probe, time: int, needed: set[int] | None) -> Hoisted:
    labels = iter(call.leaf_labels)
    leaves = []
    for each in call.leaves:
        if isinstance(each, Ref):
            tensor = probe.numbered[each.number]
            floats = tensor.is_floating_point()
            is_needed = needed is None or each.number in needed or not floats
            is_timed = bool(next(labels) & time)
            shape = tuple(tensor.shape)
            leaves.append(Leaf(each.number, shape, tensor.dtype, is_timed, is_needed))
        else:
            leaves.append(each)
    tables = bool(call.labels & time)
    return Hoisted(call.module, call.index, tables, tuple(leaves), call.structure, call.flops)


def _origins(probe: Probe, chosen: set[Call]) -> frozenset[torch.nn.Module]:
    """The modules in whose code the outputs of calls are computed, and all that calls have inside.

    Those from which a call gets what it is given are among them.
    """
    outputs = [leaf.number for each in chosen for leaf in each.leaves if isinstance(leaf, Ref)]
    steps = Tape.leading_to(dict.fromkeys(outputs), probe.steps).steps
    calls = [*chosen, *(each.call for each in steps if each.call is not None)]
    found = {probe.model}
    for call in calls:
        found.update(each.module for each in call.lineage())
    for call in chosen:
        found.update(call.module.modules())
    return frozenset(found)


def _only_timed(probe: Probe, chosen: set[Call], time: int) -> tuple[torch.nn.Parameter, ...]:
    """The parameters that are read in timed calls alone, each once."""
    import torch

    timed = {each for each in chosen if each.labels & time}
    inside, outside = set[int](), set[int]()
    for step in probe.steps:
        in_timed = step.call is not None and not timed.isdisjoint(step.call.lineage())
        (inside if in_timed else outside).update(step.uses)
    owned = {id(weight) for each in timed for weight in each.module.parameters()}
    found = (probe.outside.get(number) for number in sorted(inside - outside))
    return tuple(
        each for each in found if isinstance(each, torch.nn.Parameter) and id(each) in owned
    )
