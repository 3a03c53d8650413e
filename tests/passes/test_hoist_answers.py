"""Stand-ins answer the calls they are there for, as long as nobody has written to the answers."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import torch

from sdaccel.passes.hoist_answers import Cast
from sdaccel.passes.hoist_plan import Hoisted, Leaf

GIVEN = torch.tensor([[1.0, 2.0]])


def cast_of(module: torch.nn.Module, room: bool = True) -> Cast:
    """For a module whose first call in a forward is constant."""
    plan: Any = SimpleNamespace(hoisted=(Hoisted(module, 0, False, (), None, 0),))
    return Cast(plan, torch.device("cpu"), lambda _: room, Counter())


@torch.no_grad()
def called(module: torch.nn.Module, cast: Cast, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of one forward that calls the module once for each input."""
    cast.put_up(None)
    outputs = [module(each) for each in inputs]
    cast.take_down()
    assert "forward" not in vars(module)
    return outputs


def test_an_output_is_kept_for_the_call_it_came_of_alone() -> None:
    module = torch.nn.Linear(2, 2)
    cast = cast_of(module)
    first, other = called(module, cast, GIVEN, 2 * GIVEN)
    again, another = called(module, cast, GIVEN, 3 * GIVEN)
    assert again is first
    assert torch.equal(another, module(3 * GIVEN))
    assert not torch.equal(another, other)
    assert cast.nbytes == first.nbytes


def test_an_output_that_was_written_to_in_place_is_computed_anew() -> None:
    module = torch.nn.Linear(2, 2)
    cast = cast_of(module)
    (kept,) = called(module, cast, GIVEN)
    wanted = kept.clone()
    kept.zero_()
    (found,) = called(module, cast, GIVEN)
    assert torch.equal(found, wanted)
    assert called(module, cast, GIVEN)[0] is found
    assert cast.nbytes == found.nbytes


def test_without_room_nothing_is_kept() -> None:
    module = torch.nn.Linear(2, 2)
    cast = cast_of(module, room=False)
    first, second = (called(module, cast, GIVEN)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first is not second
    assert cast.nbytes == 0


def test_compiled_code_takes_answers_as_inputs_for_all_modules_that_are_alike() -> None:
    modules = [torch.nn.Linear(2, 2) for _ in range(2)]
    leaves = [Leaf(number, (1, 2), torch.float32, True, True) for number in range(2)]
    structure = torch.utils._pytree.tree_flatten(GIVEN)[1]
    pairs = zip(modules, leaves, strict=True)
    plan: Any = SimpleNamespace(
        hoisted=[Hoisted(each, 0, True, (leaf,), structure, 0) for each, leaf in pairs]
    )
    ran, graphs = Counter[str](), []

    def keep(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    cast = Cast(plan, torch.device("cpu"), lambda _: True, ran)
    program = torch.compile(lambda module, x: module(x) + x, backend=keep, fullgraph=True)
    for step in range(3):
        rows = {0: torch.full((1, 2), step), 1: torch.full((1, 2), 2.0 * step)}
        rows = {number: row.float() for number, row in rows.items()}
        cast.put_up(rows)
        with torch.no_grad():
            for module, row in zip(modules, rows.values(), strict=True):
                assert torch.equal(program(module, GIVEN), row + GIVEN)
        cast.finish()
        cast.take_down()
    assert len(graphs) == 1
    assert ran == {"calls answered from tables": 6}
    torch._dynamo.reset()
