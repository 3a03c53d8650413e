"""`hoist` inside of what is compiled: which calls a table can stand for there.

A table's answer is an input of the compiled code, so that code serves all steps, and all blocks
that are alike. It is compiled once more when tables come, since it does less then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .hoist_probe import Call, Probe


def computed_inside(probe: Probe, time: int, compiled: frozenset[int]) -> Iterator[Call]:
    """The calls in compiled code that stay there; `compiled` has the `id` of each module in it.

    Constant ones, whose outputs it would have to hand out first. Those of a module that is called
    from several regions, since which of its calls have answers differs from one to the next.
    """
    if not compiled:
        return
    inside = [(call, region) for call in probe.calls if (region := _region(call, probe, compiled))]
    users: dict[torch.nn.Module, set[Call | torch.nn.Module]] = defaultdict(set)
    for call, region in inside:
        users[call.module].add(region)
    for call, _ in inside:
        if not call.labels & time or len(users[call.module]) > 1:
            yield call


def _region(call: Call, probe: Probe, compiled: frozenset[int]) -> Call | torch.nn.Module | None:
    """What a call runs inside of: the call of a compiled block, or the model as a whole."""
    if id(probe.model) in compiled:
        return probe.model
    around = [each for each in call.lineage() if id(each.module) in compiled]
    return around[-1] if around and around[-1] is not call else None
