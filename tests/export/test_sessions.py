"""How a call's arguments become a graph's inputs, and its outputs the module's own."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from sdaccel.errors import InputError
from sdaccel.export.manifest import ComponentEntry, TensorInfo
from sdaccel.export.sessions import Session, UnfitCallError, as_input, at, leaves
from sdaccel.export.sessions_outputs import packed
from sdaccel.export.sessions_shapes import check_sizes, resolved
from sdaccel.report import PassRecord


class Recorder:
    """An engine that keeps what it was given, and answers with the sample."""

    def run(self, inputs: Any) -> dict[str, torch.Tensor]:
        self.inputs = dict(inputs)
        return {"out_sample": inputs["sample"]}


def session_of(module: Any, *inputs: TensorInfo, owned: bool = True) -> Session:
    output = TensorInfo("out_sample", "float32", inputs[0].shape)
    names = {each.name: each.name for each in inputs}
    entry = ComponentEntry("X", "x/model.onnx", "fp32", inputs, (output,), names, {})
    record = PassRecord("onnxruntime", "exact")
    return Session("unet", module, entry, Recorder(), record, owned)


SAMPLE = TensorInfo("sample", "float32", ("batch", 4, "height", "width"))
STEP = TensorInfo("timestep", "float32", ("batch",))
TEXT = TensorInfo("encoder_hidden_states", "float32", ("batch", "tokens", 32))
POOLED = TensorInfo("added_cond_kwargs.text_embeds", "float32", ("batch", 8))


def test_arguments_reach_the_inputs_of_their_place_dtype_and_batch() -> None:
    session = session_of(tiny.unet(), SAMPLE, STEP, TEXT, POOLED)
    more = {"added_cond_kwargs": {"text_embeds": torch.ones(2, 8), "image_embeds": None}}
    sample = torch.randn(2, 4, 8, 8, dtype=torch.bfloat16)
    found = session(sample, 7, torch.ones(2, 5, 32).half(), **more, return_dict=False)
    assert isinstance(found, tuple)
    given = session.engine.inputs  # type: ignore[attr-defined]
    assert torch.equal(given["sample"], sample.float())
    assert torch.equal(given["timestep"], torch.tensor([7.0, 7.0]))
    assert given["encoder_hidden_states"].dtype == torch.float32
    assert torch.equal(given["added_cond_kwargs.text_embeds"], torch.ones(2, 8))
    assert all(each.is_contiguous() for each in given.values())


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "needs 'added_cond_kwargs.text_embeds', which is not given"),
        ({"added_cond_kwargs": {"text_embeds": torch.ones(2, 8), "other": 1}}, "no input for"),
        ({"cross_attention_kwargs": {"scale": 0.5}}, "no input for 'cross_attention_kwargs.scale'"),
    ],
)
def test_what_the_graph_can_not_be_told_is_named(more: dict[str, Any], reason: str) -> None:
    session = session_of(tiny.unet(), SAMPLE, STEP, TEXT, POOLED, owned=False)
    with pytest.raises(InputError, match=reason):
        session(torch.ones(2, 4, 8, 8), 7, torch.ones(2, 5, 32), **more)


def test_nested_arguments_are_found_by_their_place() -> None:
    nested = {"a": {"b": [10, 20]}, "c": None}
    assert dict(leaves(nested)) == {"a.b.0": 10, "a.b.1": 20, "c": None}
    assert at(nested, "a.b.1") == 20
    assert at(nested, "a.b.2") is None
    assert at(nested, "c.d") is None


def test_lists_are_stacked_and_fractions_are_not_cut_off() -> None:
    listed = as_input(TensorInfo("x", "float32", ("n", 2)), [torch.zeros(2), torch.ones(2)])
    assert listed.shape == (2, 2)
    with pytest.raises(UnfitCallError, match="several shapes"):
        as_input(TensorInfo("x", "float32", ("n", 2)), [torch.zeros(2), torch.ones(3)])
    with pytest.raises(UnfitCallError, match="whole numbers"):
        as_input(TensorInfo("timestep", "int64", ()), torch.tensor(7.5))


def test_sizes_are_checked_against_numbers_symbols_and_multiples() -> None:
    infos = (
        TensorInfo("x", "float32", ("batch", 4, "2*height")),
        TensorInfo("y", "float32", ("batch", "height + 1")),
    )
    given = {"x": torch.ones(3, 4, 10), "y": torch.ones(3, 6)}
    assert check_sizes(infos, given)["height"] == 5
    assert resolved(("batch", "8*height"), {"batch": 3, "height": 5}) == (3, 40)
    assert resolved(("batch", "height + 1"), {"batch": 3, "height": 5}) is None
    for wrong in ({"x": torch.ones(3, 4, 9)}, {"y": torch.ones(2, 6)}, {"x": torch.ones(3, 4)}):
        with pytest.raises(InputError, match="is outside of what the graph allows"):
            check_sizes(infos, {**given, **wrong})


def test_outputs_come_in_the_class_and_order_of_the_module() -> None:
    encoder = tiny.text_encoder()
    tensors = {
        "last_hidden_state": torch.ones(1, 3, 32),
        "pooler_output": torch.ones(1, 32),
        "hidden_states.0": torch.zeros(1, 3, 32),
    }
    found = packed(encoder, tensors, return_dict=True)
    stock = encoder(torch.ones(1, 3, dtype=torch.long), output_hidden_states=True)
    assert type(found) is type(stock)
    assert len(found.hidden_states) == len(stock.hidden_states)
    assert found.hidden_states[-1] is None
    assert found[0] is tensors["last_hidden_state"]
    plain = packed(tiny.vae().decoder, {"sample": torch.ones(1)}, return_dict=True)
    assert torch.equal(plain, torch.ones(1))
