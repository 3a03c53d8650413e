"""One compiled module: what it computes, when it compiles anew, and when its own code runs."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from compiling import error, replace_regionally, run, unet_inputs
from torch import nn

from sdaccel.errors import SdaccelWarning
from sdaccel.passes.compiled import Compiler
from sdaccel.passes.compiled_region import Region
from sdaccel.report import PassRecord

pytestmark = pytest.mark.usefixtures("forget_programs")


@pytest.mark.parametrize("freeze", [False, True])
def test_inductor_keeps_to_fp32_accuracy(freeze) -> None:
    unet, record = tiny.unet(), PassRecord("compile", "exact")
    expected = run(unet, unet_inputs())
    resnet = unet.mid_block.resnets[0]
    resnet.forward = Region(resnet, Compiler("unet", record, freeze=freeze))
    assert error(run(unet, unet_inputs()), expected) <= 1e-5
    assert record.ran["compiled calls"] == 1
    assert torch._inductor.config.freezing is False


def convolutions() -> nn.Sequential:
    """Three blocks alike, in a list."""
    blocks = nn.ModuleList(
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)) for _ in range(3)
    )
    model = nn.Sequential()
    model.blocks = blocks
    return model


def test_a_new_size_compiles_once_more_and_the_next_not_at_all() -> None:
    model = convolutions()
    record = replace_regionally(model)
    counts = []
    for size, batch in [(8, 2), (16, 2), (24, 2), (32, 4), (40, 6)]:
        with torch.no_grad():
            x = torch.randn(batch, 4, size, size)
            for block in model.blocks:
                x = block(x)
        counts.append(record.ran["compilations"])
    assert counts == [1, 2, 2, 3, 3]
    assert record.ran["compiled calls"] == 15
    assert record.ran["recompilations"] == 2
    assert not record.ran["eager calls"]


class Breaks(nn.Module):
    """Dynamo has to leave this forward in the middle; `lifts` says whether it can go on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        torch._dynamo.graph_break()
        return x.sin()


@torch.no_grad()
def test_a_graph_break_is_reported_and_the_rest_compiled() -> None:
    model, record = Breaks(), PassRecord("compile", "exact")
    x = torch.randn(2, 4)
    expected = model(x)
    model.forward = Region(model, Compiler("model", record, backend="eager"))
    assert torch.equal(model(x), expected)
    assert torch.equal(model(x), expected)
    assert record.ran["eager calls"] == 1
    assert record.ran["compiled calls"] == 1
    assert "compiled in parts" in record.notes[0]


def test_a_backend_that_fails_leaves_the_stock_forward_and_says_so() -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("no room")

    model, record = nn.Linear(4, 4), PassRecord("compile", "exact")
    x = torch.randn(2, 4)
    expected = model(x)
    model.forward = Region(model, Compiler("model", record, backend=failing))
    with pytest.warns(SdaccelWarning, match="runs eagerly"):
        assert torch.equal(model(x), expected)
    assert torch.equal(model(x), expected)
    assert not record.ran["compiled calls"]
    assert "runs eagerly" in record.notes[0]


def test_an_error_of_the_model_is_the_models() -> None:
    model, record = nn.Linear(4, 4), PassRecord("compile", "exact")
    model.forward = Region(model, Compiler("model", record, backend="eager"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.randn(2, 5))
    model(torch.randn(2, 4))
    assert record.ran["compiled calls"] == 1
    assert record.notes == []


class Variants(nn.Module):
    """Dynamo compiles a variant for each value of `kind`."""

    def forward(self, x: torch.Tensor, kind: str) -> torch.Tensor:
        return x + len(kind)


def test_more_variants_than_dynamo_keeps_are_no_silent_eager_run() -> None:
    model, record = Variants(), PassRecord("compile", "exact")
    model.forward = Region(model, Compiler("model", record, backend="eager"))
    for length in range(12):
        assert torch.equal(model(torch.zeros(2), "x" * length), torch.full((2,), float(length)))
    assert record.ran["eager calls"] == 1
    assert record.ran["compiled calls"] == 11
    assert "more variants than Dynamo keeps" in record.notes[0]
