"""Rewrites a graph so that its convolutions and linear layers compute in int8, or hold fewer bits.

Static: x and W of a layer go through QuantizeLinear and DequantizeLinear, which runtimes fuse with
the layer into one integer kernel:

    x_q = round(x / s) + z in 0..255           s and z of the tensor, from calibration
    W_q = round(W / s_c) in -127..127          s_c of the output channel, max |W_c| / 127

A convolution's output is quantized as well, and its bias is in int32: ONNX Runtime fuses no other.
Gemm nodes stay as they are: they take a row a sample, such as the timestep's embedding, so there is
no time to gain, and all layers of a block depend on them.

Weights alone: a linear layer becomes MatMulNBits (ONNX Runtime's own operator), with W in blocks of
the input channels, each with a scale.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir

    from .quantize_calibration import LayerRanges, Range

_SCOPES = "pkg.torch.onnx.name_scopes"
_DOMAIN = "com.microsoft"
_ANY_LAYER = ("Conv", "MatMul", "Gemm")
STATIC = ("Conv", "MatMul")
"""The operators that are computed in int8."""


@dataclass(frozen=True)
class Layer:
    """A node that is a module's convolution or linear layer; `axis` is that of output channels."""

    name: str
    node: onnx_ir.Node
    weight: onnx_ir.Value
    axis: int


def layers_of(model: onnx_ir.Model) -> Iterator[Layer]:
    """The layers of a graph with constant weights, by the names of the modules they come from."""
    for node in model.graph:
        if node.op_type not in _ANY_LAYER or len(node.inputs) < 2:
            continue
        weight = node.inputs[1]
        if weight is None or weight.const_value is None or len(weight.const_value.shape) < 2:
            continue
        if not str(weight.const_value.dtype.name).startswith("FLOAT"):
            continue
        yield Layer(_module_of(node), node, weight, _output_axis(node))


def _module_of(node: onnx_ir.Node) -> str:
    """The path of the module that a node comes from, as the exporter noted it."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return str(scopes[-2]) if len(scopes) > 1 else ""


def _output_axis(node: onnx_ir.Node) -> int:
    transposed = node.attributes.get("transB")
    if node.op_type == "MatMul" or (
        node.op_type == "Gemm" and not (transposed and transposed.value)
    ):
        return 1
    return 0


@dataclass
class StaticRewrite:
    """Quantizes layers of a graph, one after the other; `done` counts them by operator.

    `outputs` quantizes what convolutions give as well.
    """

    model: onnx_ir.Model
    outputs: bool = True
    done: dict[str, int] = field(default_factory=dict)
    _inputs: dict[tuple[Any, Any], onnx_ir.Value] = field(default_factory=dict)
    _weights: dict[Any, onnx_ir.Value] = field(default_factory=dict)

    def quantize(self, layer: Layer, ranges: LayerRanges) -> None:
        """Put a layer's input, weights and, of a convolution, bias and output into int8."""
        node = layer.node
        scales = self._quantize_weight(layer)
        self._quantize_input(node, ranges.input)
        if node.op_type == "Conv" and self.outputs:
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                self._quantize_bias(node, scales * np.float32(ranges.input.scale))
            self._quantize_output(node, ranges.output)
        self.done[node.op_type] = self.done.get(node.op_type, 0) + 1

    def _quantize_weight(self, layer: Layer) -> np.ndarray:
        assert layer.weight.const_value is not None
        values = layer.weight.const_value.numpy().astype(np.float32)
        others = tuple(each for each in range(values.ndim) if each != layer.axis)
        largest = np.abs(values).max(axis=others)
        scales: np.ndarray = np.maximum(largest, 1e-12).astype(np.float32) / np.float32(127)
        if layer.weight not in self._weights:
            spread = np.expand_dims(scales, others)
            quantized = np.clip(np.rint(values / spread), -127, 127).astype(np.int8)
            self._weights[layer.weight] = self._dequantized(
                layer.node, layer.weight.name, quantized, scales, layer.axis
            )
        layer.node.replace_input_with(1, self._weights[layer.weight])
        return scales

    def _quantize_bias(self, node: onnx_ir.Node, scales: np.ndarray) -> None:
        bias = node.inputs[2]
        if bias is None or bias.const_value is None:
            return
        values = bias.const_value.numpy().astype(np.float64)
        limits = np.iinfo(np.int32)
        quantized = np.clip(np.rint(values / scales), limits.min, limits.max).astype(np.int32)
        node.replace_input_with(2, self._dequantized(node, bias.name, quantized, scales, 0))

    def _dequantized(
        self, node: onnx_ir.Node, name: str | None, values: Any, scales: Any, axis: int
    ) -> onnx_ir.Value:
        import onnx_ir

        held = self._constant(f"{name}.{values.dtype}", values)
        scale = self._constant(f"{name}.{values.dtype}.scale", scales)
        zero = self._constant(f"{name}.{values.dtype}.zero", np.zeros_like(scales, values.dtype))
        made = onnx_ir.node("DequantizeLinear", [held, scale, zero], {"axis": axis})
        self.model.graph.insert_before(node, made)
        return made.outputs[0]

    def _quantize_input(self, node: onnx_ir.Node, found: Range) -> None:
        value = node.inputs[0]
        key = (value, found)
        if key not in self._inputs:
            self._inputs[key] = self._through_int8(node, value, found, before=True)
        node.replace_input_with(0, self._inputs[key])

    def _quantize_output(self, node: onnx_ir.Node, found: Range) -> None:
        value = node.outputs[0]
        uses = list(value.uses())
        kept = self._through_int8(node, value, found, before=False)
        for use in uses:
            use.node.replace_input_with(use.idx, kept)

    def _through_int8(
        self, node: onnx_ir.Node, value: Any, found: Range, before: bool
    ) -> onnx_ir.Value:
        import onnx_ir

        scale = self._constant(f"scale of {found}", np.float32(found.scale))
        zero = self._constant(f"zero of {found}", np.uint8(found.zero))
        down = onnx_ir.node("QuantizeLinear", [value, scale, zero])
        up = onnx_ir.node("DequantizeLinear", [down.outputs[0], scale, zero])
        if before:
            self.model.graph.insert_before(node, [down, up])
        else:
            self.model.graph.insert_after(node, [down, up])
        up.outputs[0].shape, up.outputs[0].type = value.shape, value.type
        return up.outputs[0]

    def _constant(self, name: str, values: Any) -> onnx_ir.Value:
        return constant(self.model, name, values)


def constant(model: onnx_ir.Model, name: str, values: Any) -> onnx_ir.Value:
    """An initializer of a graph; the same one for the same name."""
    import onnx_ir

    known: Mapping[str, onnx_ir.Value] = model.graph.initializers
    if name not in known:
        made = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(np.asarray(values), name=name))
        made.shape, made.type = made.const_value.shape, onnx_ir.TensorType(made.const_value.dtype)
        model.graph.initializers[name] = made
    return known[name]


def hold_in_bits(model: onnx_ir.Model, layer: Layer, bits: int, block: int) -> None:
    """Make a linear layer a MatMulNBits over weights of 4 or 8 bits in blocks of input channels."""
    import onnx_ir

    assert layer.weight.const_value is not None
    values = layer.weight.const_value.numpy().astype(np.float32)
    if layer.axis == 1:
        values = values.T
    packed, scales = pack(values, bits, block)
    name = f"{layer.weight.name}.{bits} bits"
    attributes = {
        "K": values.shape[1],
        "N": values.shape[0],
        "bits": bits,
        "block_size": block,
        "accuracy_level": 4,  # products in int8, which is what CPUs are fast at
    }
    inputs = [
        layer.node.inputs[0],
        constant(model, name, packed),
        constant(model, f"{name}.scale", scales),
    ]
    made = onnx_ir.node("MatMulNBits", inputs, attributes, domain=_DOMAIN)
    model.graph.insert_before(layer.node, made)
    model.graph.opset_imports.setdefault(_DOMAIN, 1)
    result = made
    if layer.node.op_type == "Gemm" and len(layer.node.inputs) > 2:
        result = onnx_ir.node("Add", [made.outputs[0], layer.node.inputs[2]])
        model.graph.insert_before(layer.node, result)
    old, new = layer.node.outputs[0], result.outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    model.graph.remove(layer.node, safe=True)


def pack(values: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """W (N, K) as MatMulNBits holds it: (N, K / block, block * bits / 8) bytes, and N * K / block
    scales. Each value is (q - 2^(bits-1)) * scale; of two 4-bit ones the first is in the low half.
    """
    channels, width = values.shape
    blocks = -(-width // block)
    padded = np.zeros((channels, blocks * block), np.float32)
    padded[:, :width] = values
    rows = padded.reshape(channels, blocks, block)
    half = 1 << (bits - 1)
    scales = np.maximum(np.abs(rows).max(axis=2), 1e-12) / (half - 1)
    codes = np.clip(np.rint(rows / scales[..., None]) + half, 0, 2 * half - 1).astype(np.uint8)
    if bits == 4:
        codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return codes, scales.astype(np.float32).reshape(-1)
