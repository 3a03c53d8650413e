"""Calls and models that no graph may hold: they run as they are, and the report says why."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import tiny
import torch
from graphing import forward, forwards, graphed, inputs, ran, same
from recording import NO_LIMITS, Waits, Writes, hooked, replaced_forward

import sdaccel
from sdaccel.errors import PlanError

pytestmark = pytest.mark.usefixtures("plain_torch")


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


@pytest.mark.usefixtures("recorder")
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (user_s_processor, "Counts, may keep count"),
        (hooked, "hooks on its modules"),
        (replaced_forward, "replaced the forward of a UNetMidBlock2DCrossAttn"),
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


@NO_LIMITS
def test_a_limit_is_a_whole_number(pipe: Any, limit: Any) -> None:
    with pytest.raises(PlanError, match="whole number of at least 1"):
        graphed(pipe, limit=limit)
