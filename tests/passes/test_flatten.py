"""Flat forwards: stock's to the bit, with no module in between, and stock itself wherever not."""

from __future__ import annotations

import copy
import ctypes
import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from features import lora
from flattening import flattened, ran
from graphing import forward, forwards, inputs, same
from recording import (
    NO_LIMITS,
    OTHER_CALLS,
    Waits,
    Writes,
    hooked,
    replaced_forward,
    with_another_call_amid,
)

import sdaccel
from sdaccel.benchmarks import families as known
from sdaccel.benchmarks.families import SIZES, families
from sdaccel.benchmarks.family_pipeline import model_of, pipeline_of
from sdaccel.errors import PlanError
from sdaccel.passes.flat_forward import FlatForward
from sdaccel.passes.graph_inputs import Arguments
from sdaccel.passes.graphed import Visit

pytestmark = pytest.mark.usefixtures("plain_torch")
FAMILIES = ["SD 1.5", "SDXL", "ControlNet", "SD 3", "FLUX.1", "Qwen-Image", "Wan 2.1", "LTX"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((each, torch.float32) for each in FAMILIES), ("Wan 2.1", torch.bfloat16)],
)
@torch.no_grad()
def test_families_compute_what_they_did_and_come_back(name: str, dtype: torch.dtype) -> None:
    (family,) = families([name])
    pipe = pipeline_of(family)
    model = model_of(pipe).to(dtype)
    draws = [family.draw(SIZES[0], seed, dtype) for seed in range(4)]
    wanted, before = [known.forward(model, each) for each in draws], tiny.snapshot(pipe)
    flattened(pipe)
    assert same([known.forward(model, each) for each in draws], wanted)
    assert ran(pipe, "replays") == 3
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert same([known.forward(model, each) for each in draws], wanted)


def test_a_picture_is_the_one_that_it_was_and_restore_takes_all_back(pipe: Any) -> None:
    wanted, before = tiny.draw(pipe, num_inference_steps=5), tiny.snapshot(pipe)
    flattened(pipe)
    assert (tiny.draw(pipe, num_inference_steps=5) == wanted).all()
    assert ran(pipe, "captures") == 1
    assert ran(pipe, "replays") == 4
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert (tiny.draw(pipe, num_inference_steps=5) == wanted).all()


def test_a_replay_runs_next_to_no_python(pipe: Any) -> None:
    before = python_calls(lambda: forwards(pipe, 1))
    forwards(flattened(pipe), 4)
    assert python_calls(lambda: forwards(pipe, 1)) < before / 4


def python_calls(run: Callable[[], object]) -> int:
    """How many functions written in Python were called."""
    count = 0

    def note(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def test_what_it_returns_is_the_caller_s_as_any_tensor_is(pipe: Any) -> None:
    wanted = forwards(pipe, 5)
    flattened(pipe)
    found = []
    for seed in range(5):
        found.append(forward(pipe, *inputs(seed)).clone())
        output = forward(pipe, *inputs(seed)).fill_(7.0)
        assert not output.is_inference()
        assert output._version == 1
    assert same(found, wanted)


def test_tensors_are_gone_after_their_last_use(pipe: Any) -> None:
    flattened(pipe)
    alive: list[weakref.ref[torch.Tensor]] = []

    class Notes(torch.overrides.TorchFunctionMode):
        most = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                alive.append(weakref.ref(result))
            self.most = max(self.most, sum(each() is not None for each in alive))
            return result

    forwards(pipe, 3)
    with Notes() as notes:
        forward(pipe, *inputs())
    gc.collect()
    assert len(alive) > 100
    assert notes.most < len(alive) / 4


@torch.no_grad()
def test_one_tensor_given_twice_may_be_two_later() -> None:
    def visit(*args: Any) -> Visit:
        return Visit(Arguments.of(args, {}, torch.device("cpu")), ())

    def subtract(sample: Any, other: Any) -> Any:
        return (sample - 2 * other,)

    one, other = torch.randn(2, 3), torch.randn(2, 3)
    flat = FlatForward(subtract, visit(one, one))
    assert torch.equal(flat.replay(visit(one, one))[0][0], -one)
    assert torch.equal(flat.replay(visit(one, other))[0][0], one - 2 * other)


@torch.no_grad()
def test_a_view_of_a_view_is_one_call_wherever_in_memory_it_begins() -> None:
    calls = []

    class Notes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            calls.append(func.__name__)
            return func(*args, **(kwargs or {}))

    def heads(tokens: Any) -> Any:
        return (tokens.view(2, 2, 3).transpose(1, 2).unsqueeze(0) + 1,)

    def visit(tokens: torch.Tensor) -> Visit:
        return Visit(Arguments.of((tokens,), {}, torch.device("cpu")), ())

    memory = torch.randn(8, 6)
    flat = FlatForward(heads, visit(memory[:2]))
    for first in (0, 3, 6):
        given = memory[first : first + 2]
        with Notes():
            found = flat.replay(visit(given))[0][0]
        assert torch.equal(found, heads(given)[0])
    assert calls[-2:] == ["as_strided", "add"]
    assert "transpose" not in calls[-3:]


@OTHER_CALLS
def test_another_kind_of_call_is_watched_by_itself(pipe: Any, change: Any, more: Any) -> None:
    wanted = with_another_call_amid(pipe, change, more)
    flattened(pipe)
    assert same(with_another_call_amid(pipe, change, more), wanted)
    assert ran(pipe, "captures") == 2
    assert ran(pipe, "replays") == 2 + 2 + 2


def another_scale(unet: Any) -> None:
    for each in unet.modules():
        if hasattr(each, "scaling"):
            each.scaling["default"] = 3.0


def another_weight(unet: Any) -> None:
    unet.conv_in.weight = torch.nn.Parameter(unet.conv_in.weight.detach() * 0.25)


def another_layout(unet: Any) -> None:
    unet.to(memory_format=torch.channels_last)


def another_norm(unet: Any) -> None:
    unet.conv_norm_out.eps = 0.3


def another_processor(unet: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())


def another_module(unet: Any) -> None:
    unet.conv_act = torch.nn.Tanh()


def another_setting(unet: Any) -> None:
    unet.mid_block.resnets[0].output_scale_factor = 2.0


def training(unet: Any) -> None:
    unet.mid_block.resnets[0].dropout.p = 0.5
    unet.train()
    torch.manual_seed(0)


CHANGES = [
    *(lora, another_scale, another_weight, another_layout, another_norm, another_processor),
    *(hooked, replaced_forward, another_module, another_setting),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_was_changed_computes_by_what_it_is_now(pipe: Any, change: Any) -> None:
    if change is another_scale:
        lora(pipe.unet)
    other = tiny.stable_diffusion(unet=copy.deepcopy(pipe.unet))
    before = forwards(other, 4)
    change(other.unet)
    wanted = forwards(other, 4)
    assert change is another_layout or not same(wanted, before)
    flattened(pipe)
    assert same(forwards(pipe, 4), before)
    change(pipe.unet)
    assert same(forwards(pipe, 4), wanted)
    assert ran(pipe, "changed") == 1


def test_weights_written_in_place_count_at_once(pipe: Any) -> None:
    flattened(pipe)
    forwards(pipe, 3)
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(0.5)
    found = forwards(pipe, 3)
    assert ran(pipe, "captures") == 1
    sdaccel.restore(pipe)
    assert same(found, forwards(pipe, 3))


def test_dropout_goes_on_drawing(pipe: Any) -> None:
    flattened(pipe)
    forwards(pipe, 3)
    training(pipe.unet)
    found = forwards(pipe, 4)
    assert "draws random numbers" in sdaccel.report(pipe)["flatten"].notes[0]
    sdaccel.restore(pipe)
    torch.manual_seed(0)
    wanted = forwards(pipe, 2)
    assert same(found[:1], wanted[:1])
    assert not same(found[1:3], found[2:4])


class Hides(torch.nn.Module):
    """Looks at a value, and catches what is raised for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            return x * float(x.sum() > 0)
        except Exception:
            return x


class Unseen(torch.nn.Module):
    """Computes where no function of torch is called, as an extension does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch._C.DisableTorchFunction():
            return x * 2


class Fills(torch.nn.Module):
    """Fills memory by something that torch never sees, as machine code does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        y_address, size = y.data_ptr(), x.numel() * x.element_size()
        ctypes.memmove(y_address, x.contiguous().data_ptr(), size)
        return y * 2


class Overwrites(torch.nn.Module):
    """Writes over what torch has computed, unseen by torch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        ctypes.memset(y.data_ptr(), 0, y.numel() // 2 * y.element_size())
        return y


@pytest.mark.parametrize(
    ("layer", "reason", "replays"),
    [
        (Waits(), "a value decides", 0),
        (Hides(), "a value decides", 0),
        (Writes(), "writes to what was there before", 0),
        (Unseen(), "no function of torch was called", 0),
        (Fills(), "computes something else", 1),
        (Overwrites(), "computes something else", 1),
    ],
)
def test_what_a_replay_would_miss_runs_and_the_report_says_why(
    pipe: Any, layer: Any, reason: str, replays: int
) -> None:
    pipe.unet.conv_in = torch.nn.Sequential(layer, pipe.unet.conv_in)
    wanted = forwards(pipe, 5)
    assert same(forwards(flattened(pipe), 5), wanted)
    assert ran(pipe, "replays") == replays
    assert ran(pipe, "fallbacks") == 4 - replays
    (note,) = sdaccel.report(pipe)["flatten"].notes
    assert reason in note


def test_gradients_are_stock_s_business(pipe: Any) -> None:
    flattened(pipe)
    forwards(pipe, 3)
    pipe.unet(*inputs()).sample.sum().backward()
    assert pipe.unet.conv_in.weight.grad is not None
    assert "gradients are enabled" in sdaccel.report(pipe)["flatten"].notes[0]


def test_a_copied_model_runs_by_itself(pipe: Any) -> None:
    wanted = forwards(pipe)
    forwards(flattened(pipe))
    other = copy.deepcopy(pipe.unet)
    with torch.no_grad():
        other.conv_in.weight.zero_()
        assert not torch.equal(other(*inputs()).sample, wanted[0])
    assert same(forwards(pipe), wanted)


def test_a_compiled_model_has_no_modules_to_leave_out(pipe: Any) -> None:
    sdaccel.accelerate(pipe, "none", compile={"backend": "eager"}, flatten=True)
    record = sdaccel.report(pipe)["flatten"]
    assert not record.applied
    assert "compiled" in record.refused["unet"]


@pytest.mark.parametrize("other", ["cuda_graph", "token_merge", "sparse_attention"])
def test_passes_that_exclude_it_are_told(pipe: Any, other: str) -> None:
    with pytest.raises(PlanError, match=f"flatten and {other} exclude each other"):
        sdaccel.accelerate(pipe, f"none+flatten+{other}")


@NO_LIMITS
def test_a_limit_is_a_whole_number(pipe: Any, limit: Any) -> None:
    with pytest.raises(PlanError, match="whole number of at least 1"):
        flattened(pipe, limit=limit)
