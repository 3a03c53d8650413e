"""What changes in a recorded model: written weights are the graph's, all else is noticed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from features import lora
from graphing import forwards, graphed, ran, same

pytestmark = pytest.mark.usefixtures("plain_torch", "recorder")


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


def test_free_u_switched_on_and_off_is_noticed(pipe: Any) -> None:
    def drawn() -> list[torch.Tensor]:
        found = forwards(pipe)
        pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
        found += forwards(pipe)
        pipe.disable_freeu()
        return found + forwards(pipe)

    wanted = drawn()
    graphed(pipe)
    assert same(drawn(), wanted)
