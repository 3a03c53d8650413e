"""No float64 in a graph: constants keep what they were computed as, and the rest is in float32.

Rotations and positions are float64 in some models. TensorRT has no such type, and neither have most
accelerators. What depends on no input was computed in float64 by the translation already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir


def to_single(model: onnx_ir.Model) -> int:
    """Turn every float64 value of a graph into float32, in place; returns how many there were."""
    from onnx_ir import DataType

    changed = 0
    for graph in _graphs(model.graph):
        for value in [*graph.inputs, *graph.initializers.values(), *_outputs(graph)]:
            if value.dtype == DataType.DOUBLE:
                value.dtype = DataType.FLOAT
                changed += 1
            if value.const_value is not None and value.const_value.dtype == DataType.DOUBLE:
                value.const_value = _single(value.const_value)
        for node in graph:
            for attribute in list(node.attributes.values()):
                _narrow_attribute(node, attribute)
    return changed


def _narrow_attribute(node: Any, attribute: Any) -> None:
    """The type that a Cast makes, and the tensor of a Constant."""
    import onnx_ir
    from onnx_ir import AttributeType, DataType

    if attribute.type == AttributeType.TENSOR and attribute.value.dtype == DataType.DOUBLE:
        node.attributes[attribute.name] = onnx_ir.AttrTensor(
            attribute.name, _single(attribute.value)
        )
    elif attribute.name in ("to", "dtype") and attribute.value == DataType.DOUBLE:
        node.attributes[attribute.name] = onnx_ir.AttrInt64(attribute.name, int(DataType.FLOAT))


def _single(tensor: Any) -> Any:
    import numpy
    import onnx_ir

    return onnx_ir.tensor(tensor.numpy().astype(numpy.float32), name=tensor.name)


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside its nodes."""
    import onnx_ir

    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == onnx_ir.AttributeType.GRAPH:
                yield from _graphs(attribute.value)


def _outputs(graph: Any) -> Iterator[Any]:
    for node in graph:
        yield from node.outputs
