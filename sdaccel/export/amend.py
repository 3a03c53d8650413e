"""Operators that ONNX, or torch's translation to it, takes for something else, written otherwise.

A Squeeze refuses a dimension of another size than 1, which torch lets be. onnxscript 0.7.2 repeats
samples along the wrong dimension where the number of times may change. ONNX Runtime 1.32 has no
Where of booleans, which filling by a mask becomes.
"""

from __future__ import annotations

from typing import Any

import torch

from .real import emit

_aten = torch.ops.aten
_SQUEEZES = (_aten.squeeze.dim, _aten.squeeze.dims)


def amend(program: torch.export.ExportedProgram) -> int:
    """Rewrite a traced graph in place; returns how many operators of it."""
    graph = program.graph
    changed = 0
    for node in list(graph.nodes):
        if any(user.op == "output" for user in node.users):
            continue
        with graph.inserting_before(node):
            other = _other(node)
        if other is not None:
            node.replace_all_uses_with(other)
            graph.erase_node(node)
            changed += 1
    program.graph_module.recompile()
    return changed


def _other(node: torch.fx.Node) -> Any:
    """What gives the same as a node; None where the node stays."""
    if node.target in _SQUEEZES and _squeezes_nothing(node):
        return node.args[0]
    if node.target == _aten.repeat_interleave.self_int and len(node.args) > 2:
        return _repeated(node)
    if node.target == _aten.masked_fill.Scalar and node.meta["val"].dtype == torch.bool:
        return _filled(node)
    return None


def _squeezes_nothing(node: torch.fx.Node) -> bool:
    (tensor, *_) = node.args
    assert isinstance(tensor, torch.fx.Node)
    return bool(node.meta["val"].dim() == tensor.meta["val"].dim())


def _repeated(node: torch.fx.Node) -> torch.fx.Node:
    """Each slice so many times, as a dimension of its own that then joins the one before."""
    tensor, repeats, dim = node.args
    assert isinstance(tensor, torch.fx.Node)
    assert isinstance(dim, int)
    rank = tensor.meta["val"].dim()
    dim %= rank
    apart = emit(node, _aten.unsqueeze.default, tensor, dim + 1)
    sizes = [-1] * (dim + 1) + [repeats] + [-1] * (rank - dim - 1)
    spread = emit(node, _aten.expand.default, apart, sizes)
    return emit(node, _aten.flatten.using_ints, spread, dim, dim + 1)


def _filled(node: torch.fx.Node) -> torch.fx.Node:
    tensor, mask, value = node.args
    if value:
        return emit(node, _aten.logical_or.default, tensor, mask)
    return emit(
        node, _aten.logical_and.default, tensor, emit(node, _aten.logical_not.default, mask)
    )
