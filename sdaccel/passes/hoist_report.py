"""What the report says of a plan: which modules are left out, and what a forward is spared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .hoist_plan import HoistPlan
from .parking import in_words

if TYPE_CHECKING:
    import torch

    from ..report import PassRecord


def tell_plan(record: PassRecord, name: str, model: torch.nn.Module, plan: HoistPlan) -> None:
    """Report what a plan leaves out of the forwards of the component `name`."""
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
            f"{name}: {what}: {', '.join(names_of(modules, model))}; spares a forward "
            f"{in_words(sum(weights.values()))} of weights and "
            f"{sum(each.flops for each in calls) / 1e9:.3g} GFLOP"
        )


def tell_peak(record: PassRecord, peak: int, when: str) -> None:
    """Report a GPU's peak memory in bytes; a CPU has none of its own."""
    if peak:
        record.ran[f"MB at the device's peak, {when}"] = peak // 1_000_000


def names_of(modules: Iterable[torch.nn.Module], model: torch.nn.Module) -> list[str]:
    """The modules by name, those that differ in numbers alone as one: "12 blocks.*.norm.linear"."""
    wanted = {id(each) for each in modules}
    names = [name for name, each in model.named_modules() if id(each) in wanted]
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names)
    return [f"{count} {name}" if count > 1 else name for name, count in counts.items()]
