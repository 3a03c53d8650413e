"""A linear layer with what follows it in the epilogue: bias, activation, gate, residual.

    y = residual + gate * act(x @ weight.T + bias)          `linear`; each part may be left out
    y = a * act(b)      a, b the halves of x @ weight.T + bias      `gated_linear`: GEGLU, SwiGLU
    y = act(a) * b      where gate_first                            Flux2SwiGLU

Shapes: x (B, ..., K), weight (N, K), bias (N,), gate and residual (N,), (B, N), or anything that
broadcasts to y (B, ..., N), contiguous; for `gated_linear` weight (2 N, K), bias (2 N,). x and
residual may have any strides. act is one of `activations.ACTIVATIONS`. Products are summed in fp32,
and everything after is fp32, rounded once.

2 M N K FLOPs for M rows. In 16 bit the epilogue saves the passes that plain torch makes over y: 4
bytes a value for the activation, 4 for the gate, 6 for the residual. `gated_linear` saves 8 bytes a
result where `gated_activation` would follow the product, 12 against plain torch.

On chips that have it, the tensor memory accelerator fetches the operands, and a program owns a
multiprocessor and computes tile after tile; threads load them elsewhere, and where rows aren't
equally far apart or begin at no multiple of 16 bytes. fp32 is multiplied as three products of TF32
parts on NVIDIA's matrix units, which leaves out 2^-22 of a product, on AMD's in fp32. On a CPU the
product is torch's, and each step rounds, as in stock.

Sources: Kerr et al., "CUTLASS: Fast Linear Algebra in CUDA C++" (2017), for tiles and epilogues;
Shazeer, "GLU Variants Improve Transformer" (2020).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ..errors import ArgumentError
from .activations import ACTIVATIONS, Activation, activated
from .arguments import check_choice, check_device, check_float, check_shape
from .cost import Cost, size
from .gated_activation import gated_activation_reference
from .language import interpreted, triton
from .linear_tiles import linear_kernel
from .operator import Config, Operator, launch, takes_boxes
from .rows import like, modulation_of, strided, tokens_of

MANY = 132
"""Tiles that keep a GPU busy: an H100's multiprocessors."""


def _run(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    gate: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    gated: bool = False,
    gate_first: bool = False,
) -> torch.Tensor:
    outputs, inputs = weight.shape[0] // (2 if gated else 1), weight.shape[1]
    y = x.new_empty((*x.shape[:-1], outputs))
    if not y.numel():
        return y
    seen, weight = tokens_of(x), weight if weight.stride(-1) == 1 else weight.contiguous()
    batches, tokens, _ = seen.shape
    second = weight[outputs:] if gated else None
    bias = None if bias is None else bias.contiguous()
    arguments = {
        "x": seen,
        "weight": weight,
        "second": second,
        "bias_ptr": bias,
        "second_bias_ptr": bias[outputs:] if gated and bias is not None else None,
        **strided("gate", modulation_of("gate", gate, y)),
        **strided("residual", modulation_of("residual", residual, y)),
        "y_ptr": y,
        "rows": batches * tokens,
        "outputs": outputs,
        "inputs": inputs,
        "tokens": tokens,
        "x_batch": seen.stride(0),
        "x_token": seen.stride(1),
        "weight_row": weight.stride(0),
    }
    constants = {
        "ACTIVATION": activation,
        "GATE_FIRST": gate_first,
        # Triton's interpreter would multiply the bits of bf16
        "WIDENED": interpreted() and x.dtype == torch.bfloat16,
    }
    operands = [weight, *([] if second is None else [second])]
    boxes = takes_boxes(*operands)
    if boxes and (rows := _as_rows(seen)) is not None and takes_boxes(rows):
        arguments["x"] = rows
    else:
        boxes = False
    config = partial(_config, arguments, boxes)
    launch(linear_kernel, partial(_grid, arguments, x.device), arguments, constants, config)
    return y


def _as_rows(x: torch.Tensor) -> torch.Tensor | None:
    """x (B, S, K) as (B * S, K), a view; None where its rows aren't equally far apart."""
    batches, tokens, _ = x.shape
    if batches > 1 and tokens > 1 and x.stride(0) != tokens * x.stride(1):
        return None
    return x.flatten(0, 1)


def _grid(arguments: Mapping[str, Any], device: torch.device, config: Config) -> tuple[int, ...]:
    """A program a tile, or one a multiprocessor."""
    blocks = config.blocks
    tiles = triton.cdiv(arguments["rows"], blocks["ROWS"])
    tiles *= triton.cdiv(arguments["outputs"], blocks["OUTPUTS"])
    return (min(tiles, _processors(device)) if blocks["PERSISTENT"] else tiles,)


@functools.cache
def _processors(device: torch.device) -> int:
    """A GPU's multiprocessors; few where the interpreter runs, so that each has several tiles."""
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _config(arguments: Mapping[str, Any], boxes: bool, chip: str) -> Config:
    """How the product is cut for a chip.

    sm_120 has TMA too, but its products take operands from registers: with Triton 3.5 these spill.
    """
    tma = boxes and arguments["x"].element_size() == 2 and chip in ("sm_90", "sm_100")
    x, gated = arguments["x"], arguments["second"] is not None
    rows, outputs, inputs, warps, stages = _tiles(arguments, tma, chip)
    blocks = {
        "ROWS": rows,
        "OUTPUTS": outputs,
        "INPUTS": inputs,
        "GROUP": 8,
        "PARTS": max(1, outputs // 64),
        "EVEN": int(arguments["inputs"] % inputs == 0),
        "TMA": int(tma),
        "PERSISTENT": int(tma),
        "TENSOR_FLOAT": int(x.dtype == torch.float32 and chip.startswith("sm_")),
    }
    operands = {"x": rows, "weight": outputs, **({"second": outputs} if gated else {})}
    found = {name: (tall, inputs) for name, tall in operands.items()} if tma else {}
    return Config(blocks, warps, stages, found)


def _tiles(arguments: Mapping[str, Any], tma: bool, chip: str) -> tuple[int, int, int, int, int]:
    """Rows, outputs and inputs of a tile, warps, stages.

    wgmma and tcgen05 read operands from shared memory; where threads hold them beside the sums, a
    second tile of sums is half as wide. Small tiles go for fp32, three parts of which threads hold,
    and for rows that must be loaded value by value.
    """
    x, gated = arguments["x"], arguments["second"] is not None
    if x.dtype == torch.float32 or arguments["inputs"] * x.element_size() % 16:
        return 64, 32 if gated else 64, 32, 4, 2
    if tma:
        wide = not gated and arguments["rows"] * arguments["outputs"] >= MANY * 128 * 256
        return 128, 256 if wide else 128, 64, 8, 4
    outputs = 64 if gated else 128
    if chip in ("sm_80", "sm_90", "sm_100"):
        return 128, outputs, 64, 8, 3
    if chip.startswith("gfx"):
        return 128, outputs, 64, 8, 2
    return 128, outputs, 32, 8, 4


def linear(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    gate: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """residual + gate * act(hidden_states @ weight.T + bias); shapes as above.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    _check(hidden_states, weight, bias)
    check_choice("activation", activation, (None, *ACTIVATIONS))
    check_float(gate=gate, residual=residual)
    check_device(hidden_states=hidden_states, gate=gate, residual=residual)
    like_y = hidden_states.new_empty(1).expand(*hidden_states.shape[:-1], weight.shape[0])
    modulation_of("gate", gate, like_y)
    modulation_of("residual", residual, like_y)
    return _OP(hidden_states, weight, bias, activation, gate, residual)


def gated_linear(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation = "gelu",
    gate_first: bool = False,
) -> torch.Tensor:
    """Halves a, b of hidden_states @ weight.T + bias: a * act(b), or act(a) * b; shapes as above.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    _check(hidden_states, weight, bias)
    check_choice("activation", activation, ACTIVATIONS)
    if weight.shape[0] % 2:
        raise ArgumentError(f"weight is (2 N, K), an even number, not {list(weight.shape)}")
    return _GATED_OP(hidden_states, weight, bias, activation, gate_first)


def _check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    check_float(hidden_states=x, weight=weight, bias=bias)
    check_device(hidden_states=x, weight=weight, bias=bias)
    if x.dim() < 2 or x.shape[-1] == 0:
        raise ArgumentError(f"hidden_states is (B, ..., K) with K above 0, not {list(x.shape)}")
    check_shape((-1, x.shape[-1]), weight=weight)
    check_shape(weight.shape[:1], bias=bias)
    if weight.dtype != x.dtype:
        raise ArgumentError(
            f"weight is {weight.dtype} and hidden_states {x.dtype}: give both in one dtype"
        )


def linear_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    gate: torch.Tensor | None,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """The same in plain torch, each step rounded to x's dtype, as in stock."""
    y = _product(x, weight, bias)
    if activation is not None:
        y = activated(y, activation)
    if gate is not None:
        gate = like(gate, y).to(y.dtype)
    if residual is None:
        return y if gate is None else y.mul_(gate)
    residual = like(residual, y).to(y.dtype)
    return y.add_(residual) if gate is None else torch.addcmul(residual, gate, y, out=y)


def gated_linear_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    gate_first: bool,
) -> torch.Tensor:
    """The same in plain torch, each step rounded to x's dtype, as in stock."""
    y = _product(x, weight, bias)
    return gated_activation_reference(y, None, activation, gate_first)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    bias = None if bias is None else bias.to(x.dtype)
    return torch.nn.functional.linear(x, weight, bias)


def linear_cost(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> Cost:
    """One read of everything and one write of y; 2 K FLOPs a value, and 14 for what follows."""
    return _cost(hidden_states, weight, weight.shape[0], bias, gate, residual)


def gated_linear_cost(
    hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> Cost:
    """One read of everything and one write of y, half as wide as the product."""
    return _cost(hidden_states, weight, weight.shape[0] // 2, bias)


def _cost(
    x: torch.Tensor, weight: torch.Tensor, outputs: int, *others: torch.Tensor | None
) -> Cost:
    rows = x.numel() // x.shape[-1]
    results = rows * outputs
    written = results * x.element_size()
    flops = 2 * rows * weight.numel() + 14 * results
    return Cost(size(x, weight, *others) + written, flops)


def ahead_of_time() -> Iterator[str]:
    """Launch the kernel at the shapes of real models, for compiling without a GPU; see `ahead`."""
    for name, tokens, inputs, outputs, activation, gated in (
        ("FLUX to_out, gate and residual", 4096, 3072, 3072, None, True),
        ("FLUX GELU-tanh", 4096, 3072, 12288, "gelu_tanh", False),
        ("SD1.5 to_out, residual", 8192, 320, 320, None, False),
        ("Wan-14B GELU-tanh", 32760, 5120, 13824, "gelu_tanh", False),
        ("Wan-14B to_out, gate and residual", 32760, 5120, 5120, None, True),
    ):
        x = torch.empty(1, tokens, inputs, dtype=torch.bfloat16, device="meta")
        _run_specimen(x, outputs, activation, gated)
        yield name
    for name, tokens, inputs, outputs, activation, gate_first in (
        ("SD1.5 GEGLU", 8192, 320, 1280, "gelu", False),
        ("SDXL GEGLU", 2048, 1280, 5120, "gelu", False),
        ("FLUX.2 SwiGLU", 4608, 6144, 18432, "silu", True),
    ):
        x = torch.empty(1, tokens, inputs, dtype=torch.bfloat16, device="meta")
        weight, bias = x.new_empty(2 * outputs, inputs), x.new_empty(2 * outputs)
        _run(x, weight, bias, activation, gated=True, gate_first=gate_first)
        yield name
    x = torch.empty(2, 4608, 3072, dtype=torch.bfloat16, device="meta")
    _run_specimen(x[:, 512:], 3072, "gelu_tanh", True)
    yield "FLUX, picture's part of two samples"
    _run_specimen(x.float(), 3072, "gelu_tanh", True)
    yield "FLUX in fp32"
    _run_specimen(x[..., :3070].contiguous(), 3072, "gelu_tanh", True)
    yield "rows that begin at odd places"


def _run_specimen(x: torch.Tensor, outputs: int, activation: str | None, gated: bool) -> None:
    """A launch with a bias; gate and residual where `gated`, else a residual or an activation."""
    weight, bias = x.new_empty(outputs, x.shape[-1]), x.new_empty(outputs)
    residual = None if activation and not gated else x.new_empty(*x.shape[:-1], outputs)
    _run(x, weight, bias, activation, x.new_empty(x.shape[0], outputs) if gated else None, residual)


_OP = Operator(
    "linear",
    "(Tensor x, Tensor weight, Tensor? bias, str? activation, Tensor? gate, Tensor? residual)"
    " -> Tensor",
    launch=_run,
    reference=linear_reference,
    fake=lambda x, weight, *_: x.new_empty((*x.shape[:-1], weight.shape[0])),
)
_GATED_OP = Operator(
    "gated_linear",
    "(Tensor x, Tensor weight, Tensor? bias, str activation, bool gate_first) -> Tensor",
    launch=lambda x, weight, bias, activation, gate_first: _run(
        x, weight, bias, activation, gated=True, gate_first=gate_first
    ),
    reference=gated_linear_reference,
    fake=lambda x, weight, *_: x.new_empty((*x.shape[:-1], weight.shape[0] // 2)),
)
