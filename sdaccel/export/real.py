"""Complex numbers as pairs of real ones: neither ONNX Runtime nor TensorRT has any.

Models that rotate with complex numbers (Qwen-Image, Z-Image) make them of pairs, multiply, and take
the pairs apart again. In the traced graph a complex tensor becomes a real one with a last dimension
of 2, so making and taking apart are nothing, and a product is four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_aten = torch.ops.aten


def to_real(program: torch.export.ExportedProgram) -> int:
    """Rewrite a traced graph in place; returns how many complex tensors it had.

    Raises `NotImplementedError` for an operator that there is no rule for.
    """
    graph = program.graph
    for node in list(graph.nodes):
        if node.target == torch.ops.higher_order.wrap_with_autocast and not node.args[2]:
            _inline(program.graph_module, node)
    pairs: dict[Any, torch.fx.Node] = {}
    for node in list(graph.nodes):
        if node.target == _aten.view_as_real.default:
            node.replace_all_uses_with(pairs[node.args[0]])
        elif _is_complex(node):
            with graph.inserting_before(node):
                pairs[node] = _pair(node, pairs)
    for node in reversed(list(graph.nodes)):
        if node in pairs or node.target == _aten.view_as_real.default:
            graph.erase_node(node)
    program.graph_module.recompile()
    return len(pairs)


def _inline(module: torch.fx.GraphModule, node: Any) -> None:
    """Put what a disabled autocast encloses in its place: it changes nothing."""
    inner_module, *operands = node.args[4:]
    inner = getattr(module, inner_module.target).graph
    places = [each for each in inner.nodes if each.op == "placeholder"]
    with module.graph.inserting_before(node):
        results: Any = module.graph.graph_copy(inner, dict(zip(places, operands, strict=True)))
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(node)


def _is_complex(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_complex()


def _pair(node: Any, pairs: dict[Any, torch.fx.Node]) -> Any:
    """The real node that stands for a complex one."""
    if node.target == _aten.view_as_complex.default:
        return node.args[0]
    if node.target == _aten.unsqueeze.default:
        complex_one, dim = node.args
        return emit(node, _aten.unsqueeze.default, pairs[complex_one], dim if dim >= 0 else dim - 1)
    if node.target == _aten.mul.Tensor and all(each in pairs for each in node.args):
        return _product(node, *(pairs[each] for each in node.args))
    raise NotImplementedError(f"torch.ops.{node.target} has no rule for complex numbers")


def _product(node: torch.fx.Node, one: torch.fx.Node, other: torch.fx.Node) -> torch.fx.Node:
    """(a + bi)(c + di) = ac - bd + (ad + bc)i."""
    a, b, c, d = (
        emit(node, _aten.select.int, pair, -1, part) for pair in (one, other) for part in (0, 1)
    )

    def times(left: torch.fx.Node, right: torch.fx.Node) -> torch.fx.Node:
        return emit(node, _aten.mul.Tensor, left, right)

    real = emit(node, _aten.sub.Tensor, times(a, c), times(b, d))
    imaginary = emit(node, _aten.add.Tensor, times(a, d), times(b, c))
    return emit(node, _aten.stack.default, [real, imaginary], -1)


def emit(node: torch.fx.Node, target: Callable[..., Any], *arguments: Any) -> torch.fx.Node:
    """A call in the graph of `node`, with the shape and dtype of its result."""
    made = node.graph.call_function(target, arguments)
    values = torch.fx.node.map_arg(arguments, lambda each: each.meta["val"])
    made.meta["val"] = target(*values)
    return made
