"""The hoist pass notices whatever changes between generations and in the middle of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import tiny
import torch
from features import lora
from hoisting import (
    SHOWS,
    Change,
    conditioning_weights,
    edit_weights,
    errors,
    hoisted,
    pipe_of,
    ran,
    replace_text,
    run,
    scale_adapter,
    with_other_timesteps,
)

import sdaccel
from sdaccel.benchmarks.families import SIZES, families, forward
from sdaccel.benchmarks.family_pipeline import FamilyPipeline, model_of
from sdaccel.benchmarks.measure import EXACT_ERROR, relative_error
from sdaccel.errors import SdaccelWarning
from sdaccel.passes.hoist_inputs import Inputs
from sdaccel.passes.hoist_table import Table

pytestmark = pytest.mark.usefixtures("plain_torch")


def edit_text(_: Any, step: int, inputs: list[dict[str, Any]]) -> None:
    if step == 3:
        inputs[0]["encoder_hidden_states"][0, :2] += 1.0


def shorten_text(_: Any, step: int, inputs: list[dict[str, Any]]) -> None:
    if step == 3:
        inputs[0]["encoder_hidden_states"] = inputs[0]["encoder_hidden_states"][:, :-2]
        if "txt_ids" in inputs[0]:
            inputs[0]["txt_ids"] = inputs[0]["txt_ids"][:-2]


def edit_text_each_time(_: Any, __: int, inputs: list[dict[str, Any]]) -> None:
    inputs[0]["encoder_hidden_states"].mul_(1.1)


def move_weights(model: Any, step: int, _: Any) -> None:
    """As `load_adapter` with fusing, or `Module.to`, do it."""
    if step == 3:
        for weight in conditioning_weights(model):
            weight.data = weight.data * 1.2


def load_adapter(model: Any, step: int, _: Any) -> None:
    if step == 3:
        lora(model)


def merge_adapter(model: Any, step: int, _: Any) -> None:
    if step == 0 and not hasattr(model, "peft_config"):
        lora(model)
    if step == 3:
        model.fuse_lora(lora_scale=0.5)


def hook_a_module(model: Any, step: int, _: Any) -> None:
    if step == 3:
        module = next(each for name, each in model.named_modules() if name.endswith("to_k"))
        module.register_forward_hook(lambda _, __, output: output * 0.5)


CHANGES: dict[str, Change] = {
    each.__name__: each
    for each in (
        *(replace_text, edit_text, shorten_text, edit_text_each_time, edit_weights, move_weights),
        *(load_adapter, scale_adapter, merge_adapter, hook_a_module),
    )
}


@pytest.mark.parametrize("name", ["SD 1.5", "FLUX.1"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_mid_loop_is_noticed(change: str, name: str) -> None:
    if change == "hook_a_module" and name == "FLUX.1":
        pytest.skip("its attention has no module that depends on text alone")
    stock = pipe_of(name)
    unchanged = run(stock, name)
    wanted = run(pipe_of(name), name, CHANGES[change])
    assert relative_error(wanted[-1], unchanged[-1]) > SHOWS
    pipe = pipe_of(name)
    hoisted(pipe)
    found = run(pipe, name, CHANGES[change])
    assert errors(found, wanted) <= EXACT_ERROR
    if change not in ("load_adapter", "merge_adapter"):
        assert any(each.startswith(("computed anew", "rows read")) for each in ran(pipe))


@pytest.mark.parametrize("name", ["SD 1.5", "FLUX.1"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_calls_is_noticed(change: str, name: str) -> None:
    """The second generation has the same inputs, and is served from its first step on."""
    pipe, stock = pipe_of(name), pipe_of(name)
    hoisted(pipe)
    (family,) = families([name])
    draws = [family.draw(SIZES[0], 0, torch.float32)]
    for each in (pipe, stock):
        run(each, name)
        CHANGES[change](model_of(each), 0, draws)
        CHANGES[change](model_of(each), 3, draws)

    def give(_: Any, __: int, inputs: list[dict[str, Any]]) -> None:
        inputs[:] = draws

    assert errors(run(pipe, name, give), run(stock, name, give)) <= EXACT_ERROR


def test_what_a_hook_writes_to_a_hoisted_output_is_not_written_twice() -> None:
    """Wan's first module puts out an embedding of the timestep, and with it the projected text."""

    def make() -> FamilyPipeline:
        pipe = pipe_of("Wan 2.1")

        def louder(_: Any, args: tuple[Any, ...]) -> None:
            args[1].mul_(1.5)

        model_of(pipe).blocks[0].register_forward_pre_hook(louder)
        return pipe

    stock, pipe = make(), hoisted(make())
    for _ in range(2):
        assert errors(run(pipe, "Wan 2.1"), run(stock, "Wan 2.1")) <= EXACT_ERROR
    assert ran(pipe)["rows read"] == 4 + 6


def test_other_guidance_size_and_steps_between_calls_are_noticed() -> None:
    pipe, stock = pipe_of("FLUX.1"), pipe_of("FLUX.1")
    hoisted(pipe)

    def guide(_: Any, __: int, inputs: list[dict[str, Any]]) -> None:
        inputs[0]["guidance"] = torch.full((2,), 1.5)

    for how in ({}, {"change": guide}, {"size": SIZES[1]}, {"steps": 9}, {"guided": True}, {}):
        assert errors(run(pipe, "FLUX.1", **how), run(stock, "FLUX.1", **how)) <= EXACT_ERROR
    assert ran(pipe)["tables computed"] >= 5


def test_a_schedule_that_changes_in_mid_loop_gets_new_tables() -> None:
    pipe, stock = pipe_of("SD 1.5"), pipe_of("SD 1.5")
    hoisted(pipe)
    moved = (with_other_timesteps(each, "SD 1.5") for each in (pipe, stock))
    assert errors(*moved) <= EXACT_ERROR
    assert ran(pipe)["tables computed"] >= 2


def by_hand(pipe: FamilyPipeline, name: str, change: Callable[[int, Any], Any]) -> Any:
    """The outputs of a generation whose timesteps are what `change` makes of the scheduler's."""
    (family,) = families([name])
    inputs = family.draw(SIZES[0], 0, torch.float32)
    random = torch.Generator().manual_seed(0)
    pipe.scheduler.set_timesteps(5)
    found = []
    for step, t in enumerate(pipe.scheduler.timesteps):
        sample = torch.randn(inputs["sample"].shape, generator=random)
        moved = {"timestep": change(step, t).expand(2), "sample": sample}
        found.append(forward(model_of(pipe), {**inputs, **moved}))
        pipe.scheduler.step(torch.zeros(1, 1), t, torch.zeros(1, 1))
    return found


def test_timesteps_that_no_table_has_are_computed() -> None:
    pipe = pipe_of("SD 1.5")
    hoisted(pipe)

    def change(step: int, t: torch.Tensor) -> torch.Tensor:
        return t - 3.25 if step == 3 else t

    wanted = by_hand(pipe_of("SD 1.5"), "SD 1.5", change)
    assert errors(by_hand(pipe, "SD 1.5", change), wanted) <= EXACT_ERROR
    assert ran(pipe)["timesteps that no table has"] == 1
    assert ran(pipe)["rows read"] == 2


def test_timesteps_that_are_not_the_scheduler_s_are_left_alone() -> None:
    pipe = pipe_of("SD 1.5")
    hoisted(pipe)

    def change(_: int, t: torch.Tensor) -> torch.Tensor:
        return t**2 / 1000

    wanted = by_hand(pipe_of("SD 1.5"), "SD 1.5", change)
    assert errors(by_hand(pipe, "SD 1.5", change), wanted) <= EXACT_ERROR
    notes = sdaccel.report(pipe)["hoist"].notes
    assert any("are not the scheduler's" in each for each in notes)
    assert ran(pipe)["rows read"] == 0
    assert ran(pipe)["constant calls answered"] > 0


def test_a_row_that_is_missing_on_a_device_is_nan_and_the_pipe_runs_again_without_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = tiny.stable_diffusion()
    wanted = torch.from_numpy(tiny.draw(pipe, num_inference_steps=5))
    hoisted(pipe)

    def read_nan(self: Any, timestep: torch.Tensor, place: int, read: Any = Table.read) -> Any:
        found = read(self, timestep, place)
        for rows in self.rows.values():
            assert rows[-1].isnan().all()
        return {number: torch.full_like(each, float("nan")) for number, each in found.items()}

    monkeypatch.setattr(Table, "read", read_nan)
    with pytest.warns(SdaccelWarning, match="NaN or Inf: it runs again without hoist"):
        found = torch.from_numpy(tiny.draw(pipe, num_inference_steps=5))
    assert torch.equal(found, wanted)


def test_another_object_among_the_arguments_is_another_call() -> None:
    """Even where it lies where the last one lay; numbers are told by their value."""

    def key(value: Any) -> Any:
        return Inputs.of(("sample", "value"), (torch.zeros(1), value), {}).key

    assert len({key(object()) for _ in range(10)}) == 10
    same = object()
    assert key(same) == key(same)
    assert key(numpy.float32(0.5)) == key(numpy.float32(0.5)) != key(numpy.float32(0.25))
