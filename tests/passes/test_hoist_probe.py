"""What a probe finds a module's output to depend on, and what a plan makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from kernel_checks import noise, relative_error

from sdaccel.passes.hoist_choice import plan_of
from sdaccel.passes.hoist_inputs import Inputs, parameters_of
from sdaccel.passes.hoist_plan import HoistPlan
from sdaccel.passes.hoist_probe import Probe
from sdaccel.passes.hoist_table import Table

Body = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
SAMPLE, TIME, TEXT = noise(2, 4, 8), torch.tensor([3.0, 7.0]), noise(2, 5, 8, seed=1)
ELSEWHERE = noise(8, seed=2)


class Denoiser(torch.nn.Module):
    """A forward of three inputs, whose body a test writes."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.of_text, self.of_time = torch.nn.Linear(8, 8), torch.nn.Linear(2, 8)
        self.of_sample = torch.nn.Linear(8, 8)
        self.dropout = torch.nn.Dropout(0.5)
        self.register_buffer("table", noise(8, seed=3))
        self._body = body

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        return self._body(self, sample, timestep, text)


def look(body: Body, **modules: torch.nn.Module) -> tuple[Denoiser, HoistPlan]:
    """The model, with other modules where some are given, and what is hoisted of it."""
    model = Denoiser(body)
    for name, module in modules.items():
        setattr(model, name, module)
    inputs = Inputs.of(parameters_of(model), (SAMPLE, TIME, TEXT), {})
    probe = Probe(model, inputs.tensors, 1 << 0)
    with torch.no_grad(), probe.watching():
        model(SAMPLE, TIME, TEXT)
    return model, plan_of(probe, inputs, frozenset({0}))


def found(body: Body, **modules: torch.nn.Module) -> dict[str, str]:
    """The hoisted modules by name, and whether they are "constant" or "timed"."""
    model, plan = look(body, **modules)
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(h.module)]: "timed" if h.tables else "constant" for h in plan.hoisted}


def test_outputs_are_told_apart_by_what_goes_into_them() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        return self.of_sample(sample) + self.of_text(text).sum(1, True) + self.of_time(time)

    assert found(body) == {"of_text": "constant", "of_time": "timed"}


def test_latents_written_into_a_buffer_count() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        joined = torch.zeros(2, 9, 8)
        joined[:, :5] = text
        before = self.of_text(joined)
        joined[:, 5:] = sample
        return self.of_sample(joined) + before

    assert found(body) == {"of_text": "constant"}


def test_memory_that_nobody_saw_written_is_no_constant() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        return sample.sum() + self.of_text(torch.empty(2, 5, 8)) + self.of_time(time).sum()

    assert found(body) == {"of_time": "timed"}


def test_a_tensor_of_unknown_origin_is_no_constant_however_often_it_is_used() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        first = self.of_text(ELSEWHERE + 1)
        return sample + first + self.of_sample(ELSEWHERE + 2) + self.of_time(time)

    assert found(body) == {"of_time": "timed"}


def test_buffers_and_python_s_numbers_are_constant() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        return sample + self.of_text(self.table * torch.tensor([2.0]))

    assert found(body) == {"of_text": "constant"}


def test_what_latents_decide_in_python_is_no_constant() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        before = self.of_time(time)
        factor = 2.0 if sample.sum().item() > 0 else 3.0
        return sample + self.of_text(text * factor).sum(1, True) + before

    assert found(body) == {"of_time": "timed"}
    assert found(lambda *given: body(given[0], torch.tensor(given[1].tolist()), *given[2:])) == {}


def test_what_text_decides_in_python_holds_for_that_text() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        tokens = int((text[0, :, 0] > 0).sum())
        return sample + self.of_text(text[:, :tokens]).sum(1, True)

    assert found(body) == {"of_text": "constant"}
    assert look(body)[1].decided == frozenset({2})


def test_what_the_timestep_decides_in_python_gets_no_table() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        factor = 2.0 if time[0].item() > 5 else 3.0
        return sample + self.of_time(time * factor)

    assert found(body) == {}


def test_random_numbers_and_writes_to_what_was_there_before_are_left_alone() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        self.dropout.train()
        return sample + self.dropout(text).sum(1, True)

    assert found(body) == {}

    class Writing(torch.nn.Module):
        def forward(self, text: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            seen.add_(1)
            return text * 2

    def writes(self: Any, sample: Any, time: Any, text: Any) -> Any:
        seen = torch.zeros(8)
        return sample + self.of_text(text, seen).sum(1, True) + seen

    assert found(writes, of_text=Writing()) == {}


@torch.no_grad()
def test_a_table_has_what_the_module_puts_out_at_each_timestep() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        scaled = (time * 0.25).sin() + text.mean()
        return sample * self.of_time(scaled)

    model, plan = look(body)
    steps = torch.stack([TIME * factor for factor in (1.0, 0.5, -2.0)])
    table = Table.computed(plan, [SAMPLE, TIME, TEXT], 1, steps)
    (leaf,) = plan.timed_leaves()
    for place, step in enumerate(steps):
        row = table.read(step, place)
        assert row is not None
        wanted = model.of_time((step * 0.25).sin() + TEXT.mean())
        assert relative_error(row[leaf.number], wanted) <= 1e-6
    assert table.read(TIME * 3, 0) is None
    assert all(rows[-1].isnan().all() for rows in table.rows.values())


@torch.no_grad()
def test_a_row_is_found_by_its_timestep_wherever_it_should_be_and_is_its_reader_s_own() -> None:
    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        return sample * self.of_time(time)

    model, plan = look(body)
    (leaf,) = plan.timed_leaves()
    steps = torch.stack([TIME * factor for factor in (1.0, 0.5, -2.0)])
    table = Table.computed(plan, [SAMPLE, TIME, TEXT], 1, steps)
    for on_host in (True, False):
        table.on_host = on_host
        for place in (1, 2, 7):
            row = table.read(steps[1], place)
            assert row is not None
            assert relative_error(row[leaf.number], model.of_time(steps[1])) <= 1e-6
            row[leaf.number].zero_()
    missing = table.read(TIME * 3, 0)
    assert missing is not None
    assert missing[leaf.number].isnan().all()


@torch.no_grad()
def test_in_place_steps_are_replayed_for_all_timesteps() -> None:
    class Cumulative(torch.nn.Module):
        def forward(self, time: torch.Tensor) -> torch.Tensor:
            scaled = time * 2
            scaled[:1].add_(1)
            return scaled.mul_(3)[:, None]

    def body(self: Any, sample: Any, time: Any, text: Any) -> Any:
        return sample * self.of_time(time)[:, None]

    _, plan = look(body, of_time=Cumulative())
    table = Table.computed(plan, [SAMPLE, TIME, TEXT], 1, torch.stack([TIME, TIME + 5]))
    (leaf,) = plan.timed_leaves()
    row = table.read(TIME + 5, 1)
    assert row is not None
    assert torch.equal(row[leaf.number], Cumulative()(TIME + 5))
