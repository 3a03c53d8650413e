"""Weights compiled in: code is renewed when they change, and shared with no other block."""

from __future__ import annotations

import pytest
import tiny
import torch
from compiling import change_weight, compiled, error, ran, replace_regionally
from torch import nn

import sdaccel
from sdaccel.passes.compiled import Compiler
from sdaccel.passes.compiled_region import Region
from sdaccel.passes.frozen import Fingerprint
from sdaccel.report import PassRecord

pytestmark = pytest.mark.usefixtures("forget_programs")


@pytest.mark.parametrize("edit", ["in place", "through data", "new parameter"])
def test_frozen_weights_that_change_are_compiled_in_again(edit) -> None:
    layer = nn.Sequential(nn.Linear(8, 8), nn.SiLU())
    x, record = torch.randn(2, 8), PassRecord("compile", "exact")
    stock = layer.forward
    region = layer.forward = Region(layer, Compiler("layer", record, freeze=True))
    with torch.no_grad():
        before = layer(x)
        assert not region.renew_if_stale()
        change_weight(layer[0], edit)
        assert region.renew_if_stale()
        after, expected = layer(x), stock(x)
    assert not torch.allclose(before, after)
    assert error(after, expected) <= 1e-5
    assert record.ran["compilations"] == 2


def test_two_functions_of_a_module_are_compiled_and_renewed_together() -> None:
    layer = nn.Sequential(nn.Linear(8, 8), nn.SiLU())
    x, record = torch.randn(2, 8), PassRecord("compile", "exact")
    region = layer.forward = Region(layer, Compiler("layer", record, freeze=True))
    twice = region.variant(lambda module, x: 2 * nn.Sequential.forward(module, x))
    with torch.no_grad():
        for _ in range(2):
            expected = nn.Sequential.forward(layer, x)
            assert error(layer(x), expected) <= 1e-5
            assert error(twice(x), 2 * expected) <= 1e-5
            assert not region.renew_if_stale()
            change_weight(layer[0], "in place")
            assert region.renew_if_stale()
    assert record.ran["compilations"] == 4


def test_a_generation_begins_with_a_look_at_the_frozen_weights() -> None:
    pipe = compiled(freeze=True, scope="regional")
    tiny.draw(pipe)
    tiny.draw(pipe)
    assert not ran(pipe)["renewed for new weights"]
    change_weight(pipe.unet.conv_in, "through data")
    tiny.draw(pipe)
    assert not ran(pipe)["renewed for new weights"], "conv_in is in no block, so not compiled in"
    change_weight(pipe.unet.mid_block.resnets[0].conv1, "through data")
    tiny.draw(pipe)
    assert ran(pipe)["renewed for new weights"] == 1
    assert "weights have changed" in str(sdaccel.report(pipe))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_fingerprint_sees_any_merge_and_nothing_else(memory_format) -> None:
    convolution = nn.Conv2d(5, 7, 3).to(memory_format=memory_format)
    before = Fingerprint.of(convolution)
    assert Fingerprint.of(convolution) == before
    convolution.weight.data += 1e-3
    assert Fingerprint.of(convolution) != before


def test_frozen_blocks_of_one_class_do_not_share_code() -> None:
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(10))
    model = nn.Sequential()
    model.blocks = blocks
    x = torch.randn(2, 4)
    with torch.no_grad():
        expected = [block(x) for block in blocks]
        record = replace_regionally(model, backend="eager", freeze=True)
        found = [block(x) for block in blocks]
    assert all(map(torch.equal, found, expected))
    assert record.ran["compilations"] == 10
    assert not record.ran["eager calls"]
