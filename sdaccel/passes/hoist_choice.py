"""Choosing what to hoist of a denoiser's forward, from what a probe has seen.

Calls of the outermost modules whose output the latents have no part in: *constant* ones, whose
output is made of inputs that don't change from step to step, and *timed* ones, into whose output
the timestep goes as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .hoist_compiled import computed_inside
from .hoist_plan import Hoisted, HoistPlan, Leaf
from .hoist_repeats import repeats_of
from .hoist_tape import Ref, Tape

if TYPE_CHECKING:
    import torch

    from .hoist_inputs import Inputs
    from .hoist_probe import Call, Probe


_MOST_ROWS = 16
"""Of a table, for a timestep and a sample: modulations have one or six, tokens of text hundreds."""
_SHORTEST_RUN = 16
"""Values in a row that are worth finding again; shorter ones are held as often as they occur."""


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
    repeats = _repeats(probe, inputs)
    hoisted = tuple(
        _hoisted(each, probe, time, needed, repeats) for each in probe.calls if each in chosen
    )
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
        frozenset(place for place in constant if probe.inputs[place] in reads),
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


def _repeats(probe: Probe, inputs: Inputs) -> dict[int, tuple[int, ...]]:
    """The dimensions along which tensors repeat themselves, by number, where that saves anything.

    The timestep is one for all samples: no other is looked for in a table, see `hoist_schedule`.
    """
    if inputs.time is None:
        return {}
    found = repeats_of(probe.steps, probe.numbered, probe.inputs[inputs.time])
    return {
        number: tuple(
            each
            for each in dimensions
            if probe.numbered[number].shape[each + 1 :].numel() >= _SHORTEST_RUN
        )
        for number, dimensions in found.items()
    }


def _hoisted(
    call: Call,
    probe: Probe,
    time: int,
    needed: set[int] | None,
    repeats: Mapping[int, tuple[int, ...]],
) -> Hoisted:
    labels = iter(call.leaf_labels)
    leaves = []
    for each in call.leaves:
        if isinstance(each, Ref):
            tensor = probe.numbered[each.number]
            floats = tensor.is_floating_point()
            is_needed = needed is None or each.number in needed or not floats
            is_timed = bool(next(labels) & time)
            shape = tuple(tensor.shape)
            again = repeats.get(each.number, ())
            leaves.append(Leaf(each.number, shape, tensor.dtype, is_timed, is_needed, again))
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
