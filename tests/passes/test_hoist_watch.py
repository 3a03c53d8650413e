"""What the watch over a hoisted model notices, and what it may overlook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sdaccel.passes.hoist_watch import Watch


class Model(torch.nn.Module):
    """A projection inside of a block, and another module beside it that nothing depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.block = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        self.other = torch.nn.Linear(2, 2)
        self.processor = object()
        self.scaling = {"default": 1.0}
        self.merged_adapters: list[str] = []
        self.table = [torch.ones(2)]


def hook(model: Model) -> None:
    model.block[0].register_forward_hook(lambda *_: None)


def replace_module(model: Model) -> None:
    model.block[0] = torch.nn.Linear(2, 2)


def add_module(model: Model) -> None:
    model.block[0].add_module("adapter", torch.nn.Linear(2, 2))


def replace_processor(model: Model) -> None:
    model.processor = object()


def replace_forward(model: Model) -> None:
    model.block[0].forward = lambda hidden_states: hidden_states  # type: ignore[method-assign]


def scale(model: Model) -> None:
    model.scaling["default"] = 0.5


def merge(model: Model) -> None:
    model.merged_adapters.append("default")


def replace_weight(model: Model) -> None:
    model.block[0].weight = torch.nn.Parameter(torch.ones(2, 2))


def replace_buffer(model: Model) -> None:
    model.block[1].running_mean = torch.ones(2)


def write_weight(model: Model) -> None:
    with torch.no_grad():
        model.block[0].weight.mul_(2)


def move_weight(model: Model) -> None:
    model.block[0].weight.data = model.block[0].weight.data * 2


def replace_table(model: Model) -> None:
    model.table[0] = torch.zeros(2)


CHANGES: dict[Callable[[Model], None], str] = {
    **dict.fromkeys(
        (hook, replace_module, add_module, replace_processor, replace_forward), "modules or hooks"
    ),
    **dict.fromkeys((scale, merge), "an adapter"),
    **dict.fromkeys(
        (replace_weight, replace_buffer, write_weight, move_weight, replace_table), "weights"
    ),
}


def watch_of(model: Model) -> Watch:
    watch = Watch()
    watch.attributes.append((model.table, 0, model.table[0]))
    watch.watch([model, *model.block.modules()], model.block.parameters())
    return watch


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.__name__)
def test_a_change_is_told(change: Callable[[Model], None]) -> None:
    model = Model()
    watch = watch_of(model)
    assert watch.has_changed() is None
    change(model)
    assert watch.has_changed() == CHANGES[change]


def test_a_hook_taken_away_is_told() -> None:
    model = Model()
    handle = model.block[0].register_forward_hook(lambda *_: None)
    watch = watch_of(model)
    handle.remove()
    assert watch.has_changed() == "modules or hooks"


def test_a_hook_elsewhere_is_no_change_and_hides_none() -> None:
    model = Model()
    watch = watch_of(model)
    hook_elsewhere: Any = model.other.register_forward_hook
    hook_elsewhere(lambda *_: None)
    assert watch.has_changed() is None
    hook(model)
    assert watch.has_changed() == "modules or hooks"


def test_what_nothing_depends_on_may_change() -> None:
    model = Model()
    watch = watch_of(model)
    with torch.no_grad():
        model.other.weight.mul_(2)
    model.other.extra = torch.nn.Linear(2, 2)
    assert watch.has_changed() is None


def test_tensors_renewed_are_right_as_they_are() -> None:
    model = Model()
    watch = watch_of(model)
    move_weight(model)
    watch.renew()
    assert watch.has_changed() is None
