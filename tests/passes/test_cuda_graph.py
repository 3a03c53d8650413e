"""Recorded forwards: what is replayed is what would have run, and what can't be recorded runs.

On a CPU, where a tape stands in for CUDA graphs (see `taping`).
"""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import tiny
import torch
from features import lora
from taping import TapeRecorder, taped

import sdaccel
from sdaccel.errors import PlanError

pytestmark = pytest.mark.usefixtures("plain_torch")


@pytest.fixture
def recorder() -> Iterator[TapeRecorder]:
    with taped() as found:
        yield found


@pytest.fixture
def pipe() -> Any:
    return tiny.stable_diffusion()


def graphed(pipe: Any, **options: Any) -> Any:
    return sdaccel.accelerate(pipe, "none", cuda_graph=options or True)


def ran(pipe: Any) -> dict[str, int]:
    return dict(sdaccel.report(pipe)["cuda_graph"].ran)


def inputs(seed: int = 0, batch: int = 2, size: int = 8) -> tuple[torch.Tensor, ...]:
    """Latents, a timestep that takes no memory for each sample, and a text."""
    random = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, 4, size, size, generator=random)
    text = torch.randn(batch, 16, 32, generator=random)
    return sample, torch.tensor(100 + seed).expand(batch), text


@torch.no_grad()
def forward(pipe: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    return pipe.unet(*args, **kwargs).sample


def forwards(pipe: Any, count: int = 3, **kwargs: Any) -> list[torch.Tensor]:
    return [forward(pipe, *inputs(seed, **kwargs)) for seed in range(count)]


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


@pytest.mark.usefixtures("recorder")
def test_a_picture_is_the_one_without_graphs_and_restore_takes_all_back(pipe: Any) -> None:
    wanted, before = tiny.draw(pipe, num_inference_steps=5), tiny.snapshot(pipe)
    graphed(pipe)
    assert (tiny.draw(pipe, num_inference_steps=5) == wanted).all()
    assert ran(pipe)["unet captures"] == 1
    assert ran(pipe)["unet replays"] == 4
    assert sdaccel.report(pipe).calls["unet"] == 5
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert (tiny.draw(pipe, num_inference_steps=5) == wanted).all()


def test_a_later_replay_leaves_alone_what_the_caller_holds(pipe: Any, recorder: Any) -> None:
    wanted = forwards(pipe, 4)
    held = forwards(graphed(pipe), 4)
    assert same(held, wanted)
    assert recorder.runs == 2


def test_an_output_written_to_by_the_caller_is_not_the_graph_s(pipe: Any, recorder: Any) -> None:
    wanted = forwards(pipe, 4)
    graphed(pipe)
    for seed, each in enumerate(wanted):
        found = forward(pipe, *inputs(seed))
        assert torch.equal(found, each)
        found.fill_(7.0)
    assert recorder.runs == 2


@pytest.mark.usefixtures("recorder")
def test_a_text_is_copied_once_and_anew_when_it_was_written_to(pipe: Any) -> None:
    sample, timestep, text = inputs()
    other = torch.randn(text.shape)
    wanted = [forward(pipe, sample, timestep, each) for each in (text, other)]
    graphed(pipe)
    for _ in range(2):
        forward(pipe, sample, timestep, text)
    copied = ran(pipe)["inputs copied"]
    forward(pipe, sample.clone(), timestep, text)
    assert ran(pipe)["inputs copied"] == copied + 1
    assert torch.equal(forward(pipe, sample, timestep, text), wanted[0])
    text.copy_(other)
    assert torch.equal(forward(pipe, sample, timestep, text), wanted[1])


@pytest.mark.usefixtures("recorder")
def test_in_inference_mode_where_no_writes_are_counted_all_is_copied(pipe: Any) -> None:
    graphed(pipe)
    with torch.inference_mode():
        sample, timestep, text = (each.clone() for each in inputs())
        for _ in range(2):
            forward(pipe, sample, timestep, text)
        text.zero_()
        found = forward(pipe, sample, timestep, text)
    sdaccel.restore(pipe)
    assert torch.equal(found, forward(pipe, sample, timestep, text))
    assert not found.is_inference() or torch.equal(found, found.clone())


@pytest.mark.usefixtures("recorder")
@pytest.mark.parametrize(
    ("change", "more"),
    [({"batch": 3}, {}), ({"size": 16}, {}), ({}, {"return_dict": False})],
    ids=["batch", "size", "argument"],
)
def test_another_kind_of_call_gets_a_graph_of_its_own(pipe: Any, change: Any, more: Any) -> None:
    def all_of_them() -> list[torch.Tensor]:
        found = forwards(pipe, 3)
        with torch.no_grad():
            found += [pipe.unet(*inputs(seed, **change), **more)[0] for seed in range(3)]
        return found + forwards(pipe, 2)

    wanted = all_of_them()
    graphed(pipe)
    assert same(all_of_them(), wanted)
    assert ran(pipe)["unet captures"] == 2
    assert ran(pipe)["unet calls as they are"] == 2


@pytest.mark.usefixtures("recorder")
def test_of_too_many_graphs_the_least_recently_used_goes(pipe: Any) -> None:
    sizes = (2, 3, 2, 4, 2, 3)
    wanted = [forward(pipe, *inputs(0, batch)) for batch in sizes for _ in range(2)]
    graphed(pipe, limit=2)
    found = [forward(pipe, *inputs(0, batch)) for batch in sizes for _ in range(2)]
    assert same(found, wanted)
    assert ran(pipe)["unet captures"] == 4
    assert ran(pipe)["unet graphs dropped, for there were too many"] == 2


@pytest.mark.usefixtures("recorder")
def test_weights_written_in_place_need_no_new_graph_and_replaced_ones_do(pipe: Any) -> None:
    def with_weights(change: Any) -> list[torch.Tensor]:
        change(pipe.unet.conv_in)
        return forwards(pipe)

    def in_place(layer: Any) -> None:
        layer.weight.data.mul_(0.5)

    def by_data(layer: Any) -> None:
        layer.weight.data = layer.weight.data * 3

    def by_parameter(layer: Any) -> None:
        layer.weight = torch.nn.Parameter(layer.weight * 0.25)

    changes = (in_place, by_data, by_parameter)
    original = copy.deepcopy(pipe.unet.conv_in.weight)
    wanted = [with_weights(each) for each in changes]
    pipe.unet.conv_in.weight = original
    forwards(graphed(pipe))
    for change, truth, captures in zip(changes, wanted, (1, 2, 3), strict=True):
        assert same(with_weights(change), truth)
        assert ran(pipe)["unet captures"] == captures
    assert ran(pipe)["unet graphs dropped, for its weights changed"] == 2


@pytest.mark.usefixtures("recorder")
def test_an_adapter_s_weights_are_swapped_in_place_and_its_scale_is_noticed(pipe: Any) -> None:
    lora(pipe.unet)
    layers = [each for each in pipe.unet.modules() if hasattr(each, "lora_A")]

    def swap() -> None:
        for each in layers:
            each.lora_A["default"].weight.data.mul_(-2)

    def scale() -> None:
        for each in layers:
            each.scaling["default"] = 3.0

    def off() -> None:
        pipe.unet.disable_lora()

    def drawn() -> list[list[torch.Tensor]]:
        found = [forwards(pipe)]
        for change in (swap, scale, off):
            change()
            found.append(forwards(pipe))
        return found

    before = {id(each): dict(each.scaling) for each in layers}
    wanted = drawn()
    pipe.unet.enable_lora()
    for each in layers:
        each.scaling.update(before[id(each)])
        each.lora_A["default"].weight.data.mul_(-0.5)
    graphed(pipe)
    for found, truth in zip(drawn(), wanted, strict=True):
        assert same(found, truth)
    assert ran(pipe)["unet captures"] == 3, "the swap goes without"


@pytest.mark.usefixtures("recorder")
def test_free_u_switched_on_and_off_is_noticed(pipe: Any) -> None:
    def drawn() -> list[torch.Tensor]:
        found = forwards(pipe)
        pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
        found += forwards(pipe)
        pipe.disable_freeu()
        return found + forwards(pipe)

    wanted = drawn()
    assert same(drawn_with(pipe, drawn), wanted)


def drawn_with(pipe: Any, drawn: Any) -> Any:
    graphed(pipe)
    return drawn()


class Waits(torch.nn.Module):
    """A layer that looks at a value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum().item() > 0 else x


class Writes(torch.nn.Module):
    """A layer that changes what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(0.5)


@pytest.mark.usefixtures("recorder")
@pytest.mark.parametrize(
    ("layer", "reason"),
    [(Waits(), "not permitted when stream is capturing"), (Writes(), "writes to its arguments")],
)
def test_what_can_t_be_recorded_runs_and_the_report_says_why(
    pipe: Any, layer: Any, reason: str
) -> None:
    conv_in = pipe.unet.conv_in
    pipe.unet.conv_in = torch.nn.Sequential(layer, conv_in)
    wanted = forwards(pipe, 4)
    assert same(forwards(graphed(pipe), 4), wanted)
    assert ran(pipe)["unet fallbacks"] == 3
    assert "unet captures" not in ran(pipe)
    (note,) = sdaccel.report(pipe)["cuda_graph"].notes
    assert reason in note


class Counts:
    """A processor that Python counts the calls of."""

    def __init__(self, stock: Any) -> None:
        self.stock, self.calls = stock, [0.0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls[0] += 1
        return self.stock(*args, **kwargs) * self.calls[0]


def user_s_processor(unet: Any) -> None:
    unet.set_attn_processor(Counts(next(iter(unet.attn_processors.values()))))


def user_s_hook(unet: Any) -> None:
    unet.mid_block.register_forward_hook(lambda _, __, output: output * 2)


def user_s_forward(unet: Any) -> None:
    stock = unet.mid_block.forward
    unet.mid_block.forward = lambda *args, **kwargs: stock(*args, **kwargs) * 2


@pytest.mark.usefixtures("recorder")
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (user_s_processor, "Counts, may keep count"),
        (user_s_hook, "hooks on its modules"),
        (user_s_forward, "replaced the forward of a UNetMidBlock2DCrossAttn"),
    ],
)
def test_python_that_a_replay_would_leave_out_keeps_running(
    pipe: Any, change: Any, reason: str, late: bool
) -> None:
    changed = tiny.stable_diffusion()
    change(changed.unet)
    wanted = forwards(changed)
    if not late:
        change(pipe.unet)
    graphed(pipe)
    if late:
        forwards(pipe)
        change(pipe.unet)
    assert same(forwards(pipe), wanted)
    assert ran(pipe)["unet fallbacks"] == 3
    assert reason in sdaccel.report(pipe)["cuda_graph"].notes[0]


@pytest.mark.usefixtures("recorder")
def test_calls_of_other_kinds_run_as_they_are(pipe: Any) -> None:
    graphed(pipe)
    sample, timestep, text = inputs()
    calls: list[tuple[str, Any]] = [
        ("gradients are enabled", lambda: pipe.unet(sample, timestep, text)),
        ("on meta, the model on cpu", lambda: forward(pipe, sample, timestep, text.to("meta"))),
        ("of the class object", lambda: forward(pipe, sample, timestep, text, object())),
    ]
    for reason, call in calls:
        with suppress(Exception):  # the model's own, which takes no such arguments
            call()
        assert reason in sdaccel.report(pipe)["cuda_graph"].notes[-1]
    with torch.autocast("cpu", torch.bfloat16):
        forward(pipe, sample, timestep, text)
    assert "autocast" in sdaccel.report(pipe)["cuda_graph"].notes[-1]
    assert ran(pipe)["unet fallbacks"] == 4


@pytest.mark.usefixtures("recorder")
def test_timesteps_that_are_numbers_never_fill_the_memory(pipe: Any) -> None:
    sample, _, text = inputs()
    wanted = [forward(pipe, sample, step, text) for step in range(6)]
    graphed(pipe, limit=2)
    for _ in range(3):
        assert same([forward(pipe, sample, step, text) for step in range(6)], wanted)
    assert "unet captures" not in ran(pipe)


@pytest.mark.usefixtures("recorder")
def test_nothing_of_a_generation_is_held_when_it_is_over(pipe: Any) -> None:
    graphed(pipe)
    texts = []

    def note(_: Any, args: Any, kwargs: Any) -> None:
        texts.append(weakref.ref(kwargs["encoder_hidden_states"]))

    pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    tiny.draw(pipe, num_inference_steps=3)
    gc.collect()
    assert ran(pipe)["unet replays"] == 2
    assert all(each() is None for each in texts)


@pytest.mark.usefixtures("recorder")
def test_a_copied_model_runs_by_itself(pipe: Any) -> None:
    wanted = forwards(pipe)
    forwards(graphed(pipe))
    other = copy.deepcopy(pipe.unet)
    with torch.no_grad():
        other.conv_in.weight.zero_()
        assert not torch.equal(other(*inputs()).sample, wanted[0])
    assert same(forwards(pipe), wanted)


def test_a_compiled_model_is_recorded_once_it_is_compiled(pipe: Any, recorder: Any) -> None:
    wanted = forwards(pipe, 4)
    compiled = {"backend": "eager", "scope": "whole", "freeze": False, "vae": False}
    sdaccel.accelerate(pipe, "none", compile=compiled, cuda_graph=True)
    assert same(forwards(pipe, 4), wanted)
    assert ran(pipe)["unet replays"] == 3
    assert recorder.runs == 2
    assert "eager calls" not in sdaccel.report(pipe)["compile"].ran


@pytest.mark.usefixtures("recorder")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"freeze": True}, "give compile freeze=False"),
        ({"freeze": False, "mode": "reduce-overhead"}, "has graphs of its own"),
    ],
)
def test_compiled_code_that_no_graph_may_hold_is_left_alone(
    pipe: Any, options: Any, reason: str
) -> None:
    sdaccel.accelerate(pipe, "none", compile={"backend": "eager", **options}, cuda_graph=True)
    record = sdaccel.report(pipe)["cuda_graph"]
    assert not record.applied
    assert reason in record.refused["unet"]


@pytest.mark.usefixtures("recorder")
def test_a_model_that_the_user_has_compiled_runs_as_it_is(pipe: Any) -> None:
    pipe.unet.compile(backend="eager")
    graphed(pipe)
    pipe.unet._compiled_call_impl = None
    pipe.unet.mid_block.compile(backend="eager")
    forward(pipe, *inputs())
    assert "compiled by the user" in sdaccel.report(pipe)["cuda_graph"].notes[0]


def test_without_cuda_the_pass_refuses_with_a_reason(pipe: Any) -> None:
    wanted = forwards(pipe)
    record = sdaccel.report(graphed(pipe))["cuda_graph"]
    assert record.state == "refused"
    assert record.refused["pipe"] == "graphs need a CUDA device, and the pipe is on cpu"
    assert same(forwards(pipe), wanted)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "8"])
def test_a_limit_is_a_whole_number(pipe: Any, limit: Any) -> None:
    with pytest.raises(PlanError, match="whole number of at least 1"):
        graphed(pipe, limit=limit)
