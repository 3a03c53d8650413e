"""Tables hold a row once: not for each sample, not for each branch, not for steps that are over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hoisting import errors, hoisted, pipe_of, ran, run

from sdaccel.benchmarks.measure import EXACT_ERROR
from sdaccel.passes.hoist_probe import Probe
from sdaccel.passes.hoist_repeats import repeats_of
from sdaccel.passes.hoist_table import Table

pytestmark = pytest.mark.usefixtures("plain_torch")


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of the tables' rows, as each is read."""
    found: list[int] = []

    def read(self: Table, *given: Any, stock: Any = Table.read) -> Any:
        found.append(sum(each.nbytes for each in self.rows.values()))
        return stock(self, *given)

    monkeypatch.setattr(Table, "read", read)
    return found


@pytest.mark.parametrize("name", ["CogVideoX", "Z-Image"])
@pytest.mark.parametrize("on_host", [True, False])
def test_samples_share_a_row_and_every_bit_stays(
    name: str, on_host: bool, widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not on_host:
        monkeypatch.setattr(Table, "_found_here", Table._found_there)
    found = run(hoisted(pipe_of(name)), name)
    once = set(widths)
    widths.clear()
    monkeypatch.setattr("sdaccel.passes.hoist_choice.repeats_of", lambda *_: {})
    wanted = run(hoisted(pipe_of(name)), name)
    assert {2 * each for each in once} == set(widths)
    assert all(map(torch.equal, found, wanted))
    assert errors(found, run(pipe_of(name), name)) <= EXACT_ERROR


def test_branches_in_calls_of_their_own_share_a_table_where_text_has_no_part_in_it() -> None:
    for name, tables in (("CogVideoX", 1), ("FLUX.1", 2)):
        pipe = hoisted(pipe_of(name))
        found = run(pipe, name, guided=True)
        assert ran(pipe)["tables computed"] == tables
        assert errors(found, run(pipe_of(name), name, guided=True)) <= EXACT_ERROR


@pytest.mark.parametrize(("name", "guided"), [("Qwen-Image", False), ("CogVideoX", True)])
def test_a_large_table_is_computed_in_parts(
    name: str, guided: bool, widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 10
    wanted = run(pipe_of(name), name, steps=steps, guided=guided)
    run(hoisted(pipe_of(name)), name, steps=steps, guided=guided)
    (whole,) = set(widths)
    widths.clear()
    room = whole // 11 * 5
    monkeypatch.setattr("sdaccel.passes.hoist_holdings.RESIDENT", room)
    pipe = hoisted(pipe_of(name))
    for _ in range(2):
        found = run(pipe, name, steps=steps, guided=guided)
        assert errors(found, wanted) <= EXACT_ERROR
    assert ran(pipe)["tables computed"] == 2 * 3
    assert max(widths) <= room
    assert ran(pipe)["rows read"] == len(widths)
    assert not ran(pipe)["timesteps that no table has"]


Body = Callable[[torch.Tensor], dict[str, torch.Tensor]]


def repeats(body: Body) -> dict[str, tuple[int, ...]]:
    """Along which dimensions what a body puts out by name repeats itself, given a timestep."""
    time = torch.full((2,), 0.5)
    probe = Probe(torch.nn.Module(), [time], 0)
    with torch.no_grad(), probe.watching():
        results = body(time)
    numbers = {id(each): number for number, each in enumerate(probe.numbered)}
    found = repeats_of(probe.steps, probe.numbered, probe.inputs[0])
    return {name: found.get(numbers[id(each)], ()) for name, each in results.items()}


def test_what_repeats_itself_is_followed_through_the_operations() -> None:
    def body(time: torch.Tensor) -> dict[str, torch.Tensor]:
        embedded = torch.cat([time[:, None].sin(), time[:, None].cos()], dim=1)
        frames = embedded.repeat_interleave(3, dim=0)
        wide = torch.cat([embedded, embedded], dim=1)
        weight, other = torch.eye(4), torch.eye(4)[:2]
        return {
            "embedded": embedded,
            "frames": frames,
            "product": wide @ weight,
            "mixed": wide + other,
            "along samples": torch.cat([wide, other]),
            "sorted": wide.sort(dim=0).values,
        }

    assert repeats(body) == {
        "embedded": (0,),
        "frames": (0,),
        "product": (0,),
        "mixed": (),
        "along samples": (),
        "sorted": (),
    }


def test_what_is_written_to_in_place_is_not_known() -> None:
    def body(time: torch.Tensor) -> dict[str, torch.Tensor]:
        doubled = time * 2
        doubled[:1].add_(1)
        return {"doubled": doubled}

    assert repeats(body) == {"doubled": ()}
