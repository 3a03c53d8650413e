"""Frozen linear layers hold one packed copy of each weight, and compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sdaccel.passes.compiled import Compiler
from sdaccel.passes.compiled_region import Region
from sdaccel.passes.packing import held_by, repack_linears
from sdaccel.report import PassRecord

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()),
    reason="needs a torch with MKL and oneDNN",
)
ROWS = 6


class Packed:
    """A graph of linear layers as Inductor leaves it: MKL's copies, and the weights beside them."""

    def __init__(self, *layers: tuple[int, bool]) -> None:
        """`layers`: for each, the index of its weight (5, 5), and whether it has a bias."""
        torch.manual_seed(0)
        graph, self.module = torch.fx.Graph(), nn.Module()
        out: Any = graph.placeholder("x")
        for weight, biased in layers:
            out = graph.call_function(
                torch.ops.mkl._mkl_linear,
                (
                    out,
                    self._hold(graph, f"packed{weight}", None),
                    self._hold(graph, f"weight{weight}", torch.randn(5, 5)),
                    self._hold(graph, f"bias{weight}", torch.randn(5)) if biased else None,
                    ROWS,
                ),
            )
        graph.output(out)
        self.graph = torch.fx.GraphModule(self.module, graph)

    def _hold(self, graph: Any, name: str, value: torch.Tensor | None) -> Any:
        if value is None:
            weight = name.replace("packed", "weight")
            if not hasattr(self.module, weight):
                self.module.register_buffer(weight, torch.randn(5, 5))
            value = torch.ops.mkl._mkl_reorder_linear_weight(getattr(self.module, weight), ROWS)
        if not hasattr(self.module, name):
            self.module.register_buffer(name, value)
        return graph.get_attr(name)


def test_only_copies_for_onednn_and_biases_are_left() -> None:
    packed, x = Packed((0, True), (1, False)), torch.randn(ROWS, 5)
    expected = packed.graph(x)
    assert repack_linears(packed.graph) == 2
    packed.graph.recompile()
    assert torch.allclose(packed.graph(x), expected, atol=1e-5)
    names = {node.target for node in packed.graph.graph.nodes if node.op == "get_attr"}
    assert names == {"packed0_for_onednn", "packed1_for_onednn", "bias0"}
    assert {name for name, _ in packed.graph.named_buffers()} == names
    held = held_by(packed.graph)
    assert [each.layout for each in held].count(torch._mkldnn) == 2
    assert len(held) == 3


def test_a_weight_of_two_layers_is_packed_once() -> None:
    packed, x = Packed((0, True), (0, True)), torch.randn(ROWS, 5)
    expected = packed.graph(x)
    assert repack_linears(packed.graph) == 2
    packed.graph.recompile()
    assert torch.allclose(packed.graph(x), expected, atol=1e-5)
    assert {name for name, _ in packed.graph.named_buffers()} == {"packed0_for_onednn", "bias0"}


def test_other_graphs_stay_as_they_are() -> None:
    graph = torch.fx.symbolic_trace(nn.Linear(3, 3))
    before = graph.code
    assert repack_linears(graph) == 0
    graph.recompile()
    assert graph.code == before


@torch.no_grad()
def test_inductor_takes_the_repacked_graph_and_the_report_counts_it() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 8, bias=False))
    x, record = torch.randn(ROWS, 16), PassRecord("compile", "exact")
    expected = module(x)
    module.forward = Region(module, Compiler("model", record, freeze=True))
    found = module(x)
    assert (found - expected).norm() / expected.norm() < 1e-5
    assert record.ran["linear layers packed by oneDNN"] == 2
    assert record.ran["compiled calls"] == 1
    torch._dynamo.reset()
