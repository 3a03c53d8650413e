"""Every change can be taken back, exactly, in any state of failure."""

from __future__ import annotations

import pytest
import torch

from sdaccel.patch import Patch, same_name_subclass


class Thing:
    shared = "class"

    def __init__(self) -> None:
        self.own = 1


def test_attributes_come_back_and_absent_ones_go() -> None:
    thing, patch = Thing(), Patch()
    patch.set(thing, "own", 2)
    patch.set(thing, "own", 3)
    patch.set(thing, "shared", "instance")
    patch.set(thing, "new", True)
    assert (thing.own, thing.shared, thing.new) == (3, "instance", True)
    patch.undo()
    assert thing.__dict__ == {"own": 1}
    assert thing.shared == "class"


def test_children_and_parameters_of_a_module_come_back_in_place() -> None:
    module, patch = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), Patch()
    first, weight = module[0], module[0].weight
    patch.set(first, "weight", torch.nn.Parameter(torch.zeros(2, 2)))
    patch.set(module, "0", torch.nn.Identity())
    assert isinstance(module[0], torch.nn.Identity)
    patch.undo()
    assert module[0] is first
    assert module[0].weight is weight
    assert list(module._modules) == ["0", "1"]


def test_a_class_is_swapped_under_the_same_name_only() -> None:
    thing, patch = Thing(), Patch()
    stand_in = same_name_subclass(Thing, {"extra": lambda _: "yes"})
    patch.set_class(thing, stand_in)
    assert type(thing).__name__ == "Thing"
    assert thing.extra() == "yes"
    with pytest.raises(TypeError, match="can't stand in"):
        patch.set_class(thing, dict)
    patch.undo()
    assert type(thing) is Thing


def test_dictionaries_keep_their_order() -> None:
    values, patch = {"a": 1, "b": 2}, Patch()
    patch.set_item(values, "a", 9)
    patch.set_item(values, "c", 3)
    assert values == {"a": 9, "b": 2, "c": 3}
    patch.undo()
    assert list(values.items()) == [("a", 1), ("b", 2)]


def test_undo_runs_last_in_first_out_and_once() -> None:
    patch, order = Patch(), []
    for number in range(3):
        patch.on_undo(lambda number=number: order.append(number))
    patch.undo()
    patch.undo()
    assert order == [2, 1, 0]


def test_one_failing_undo_does_not_stop_the_others() -> None:
    patch, order = Patch(), []
    patch.on_undo(lambda: order.append("first"))
    patch.on_undo(lambda: 1 / 0)
    patch.on_undo(lambda: order.append("last"))
    with pytest.raises(ZeroDivisionError):
        patch.undo()
    assert order == ["last", "first"]


def test_a_failing_change_leaves_nothing_behind() -> None:
    class Stubborn:
        __slots__ = ("__dict__",)

        def __setattr__(self, name: str, value: object) -> None:
            if name == "no":
                raise AttributeError("no")
            object.__setattr__(self, name, value)

    thing, patch = Stubborn(), Patch()
    patch.set(thing, "yes", 1)
    with pytest.raises(AttributeError):
        patch.set(thing, "no", 1)
    patch.undo()
    assert thing.__dict__ == {}


def test_the_undos_of_one_component_can_be_taken_out() -> None:
    patch, shared, thing = Patch(), object(), Thing()
    with patch.scope(shared):
        patch.set(thing, "own", 2)
    patch.set(thing, "new", 1)
    taken = patch.take(shared)
    patch.undo()
    assert thing.__dict__ == {"own": 2}
    taken[0].run()
    assert thing.__dict__ == {"own": 1}


def test_hooks_are_removed() -> None:
    module, patch = torch.nn.Linear(1, 1), Patch()
    patch.add_handle(module.register_forward_pre_hook(lambda *_: None))
    patch.undo()
    assert not module._forward_pre_hooks
