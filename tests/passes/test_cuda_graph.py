"""Recorded forwards: what is replayed is what would have run.

On a CPU, where a tape stands in for CUDA graphs (see `taping`).
"""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import tiny
import torch
from graphing import forward, forwards, graphed, inputs, ran, same
from recording import OTHER_CALLS, with_another_call_amid

import sdaccel

pytestmark = pytest.mark.usefixtures("plain_torch")


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
@OTHER_CALLS
def test_another_kind_of_call_gets_a_graph_of_its_own(pipe: Any, change: Any, more: Any) -> None:
    wanted = with_another_call_amid(pipe, change, more)
    graphed(pipe)
    assert same(with_another_call_amid(pipe, change, more), wanted)
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
