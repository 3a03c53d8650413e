"""An activation, or one half of the channels times the activation of the other, in one pass.

    y = a * act(b)      a, b the halves of x + bias       diffusers' GEGLU and SwiGLU
    y = act(a) * b      where gate_first                  Flux2SwiGLU
    y = act(a) * b      `activated_product`               a and b from two projections: w1 and w3
                                                          (Z-Image, Lumina2, AuraFlow)
    y = act(x + bias)   `activation`

Shapes: x (..., 2 D), bias (2 D,), y (..., D) contiguous; for `activation` x (..., D), bias (D,);
for `activated_product` a and b (..., D). Rows may have any strides. act is one of
`activations.ACTIVATIONS`. Arithmetic is fp32, rounded once.

Memory: 2 D values read and D written a row, 6 bytes a result in 16 bit; plain torch takes 10, since
act(b) is written and read again. `activation` takes 4. About 12 FLOPs a result.

On a CPU torch's own activation and product compute where there is no bias, each rounded, as stock
does it: to go by fp32 would take half as long again.

Source: Shazeer, "GLU Variants Improve Transformer" (2020).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..errors import ArgumentError
from .activations import ACTIVATIONS, Activation, activate, activated
from .arguments import check_choice, check_device, check_float, check_shape
from .cost import Cost, size
from .language import tl, triton
from .operator import Operator, launch
from .rows import load_rows, strided, tile_config, tokens_of


@triton.jit
def _gated_activation_kernel(
    x_ptr,
    other_ptr,
    bias_ptr,
    y_ptr,
    rows,
    tokens,
    channels,
    x_batch,
    x_token,
    ACTIVATION: tl.constexpr,
    GATE_FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    tiles = tl.cdiv(channels, CHANNELS)
    row = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(0) % tiles * CHANNELS + tl.arange(0, CHANNELS)
    within = channel < channels
    inside = (row < rows)[:, None] & within[None, :]
    batch, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)

    y = load_rows(x_ptr, batch, token, x_batch, x_token, channel, inside)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + channel, within, 0.0).to(tl.float32)[None, :]
    if other_ptr is not None:
        b = load_rows(other_ptr, batch, token, x_batch, x_token, channel, inside)
        if bias_ptr is not None:
            b += tl.load(bias_ptr + channels + channel, within, 0.0).to(tl.float32)[None, :]
        y = activate(y, ACTIVATION) * b if GATE_FIRST else y * activate(b, ACTIVATION)
    else:
        y = activate(y, ACTIVATION)
    offset = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), inside)


def _run(
    x: torch.Tensor,
    other: torch.Tensor | None,
    bias: torch.Tensor | None,
    activation: str,
    gate_first: bool = False,
) -> torch.Tensor:
    """x and other need the same strides: halves of a tensor have, others are copied."""
    channels = x.shape[-1]
    y = x.new_empty(x.shape)
    if not y.numel():
        return y
    if other is not None and other.stride() != x.stride():
        x, other = x.contiguous(), other.contiguous()
    seen = _rows(x)
    batches, tokens, _ = seen.shape
    config, rows = tile_config(channels), batches * tokens
    arguments = {
        **strided("x", seen),
        "other_ptr": None if other is None else _rows(other),
        "bias_ptr": None if bias is None else bias.contiguous(),
        "y_ptr": y,
        "rows": rows,
        "tokens": tokens,
        "channels": channels,
    }
    constants = {"ACTIVATION": activation, "GATE_FIRST": gate_first}
    tall, wide = config.blocks["ROWS"], config.blocks["CHANNELS"]
    grid = (triton.cdiv(rows, tall) * triton.cdiv(channels, wide),)
    launch(_gated_activation_kernel, grid, arguments, constants, config)
    return y


def _run_halves(
    x: torch.Tensor, bias: torch.Tensor | None, activation: str, gate_first: bool
) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return _run(a, b, bias, activation, gate_first)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return tokens_of(x if x.dim() > 1 else x[None])


def gated_activation(
    hidden_states: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation = "gelu",
    gate_first: bool = False,
) -> torch.Tensor:
    """Halves a, b of hidden_states + bias: a * act(b), or act(a) * b; shapes as above.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    _check(hidden_states, bias, activation)
    channels = hidden_states.shape[-1]
    if channels % 2:
        raise ArgumentError(f"hidden_states is (..., 2 D), an even number, not {channels}")
    return _GATED_OP(hidden_states, bias, activation, gate_first)


def activated_product(
    gate: torch.Tensor, value: torch.Tensor, *, activation: Activation = "silu"
) -> torch.Tensor:
    """act(gate) * value, both (..., D).

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    _check(gate, None, activation)
    check_float(value=value)
    check_device(gate=gate, value=value)
    check_shape(gate.shape, value=value)
    return _PRODUCT_OP(gate, value, activation)


def activation(
    hidden_states: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation = "gelu",
) -> torch.Tensor:
    """act(hidden_states + bias); shapes as above.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    _check(hidden_states, bias, activation)
    return _OP(hidden_states, bias, activation)


def _check(x: torch.Tensor, bias: torch.Tensor | None, activation: str) -> None:
    check_choice("activation", activation, ACTIVATIONS)
    check_float(hidden_states=x, bias=bias)
    check_device(hidden_states=x, bias=bias)
    if x.dim() == 0:
        raise ArgumentError("hidden_states is (..., D), not a single value")
    check_shape((x.shape[-1],), bias=bias)


def gated_activation_reference(
    x: torch.Tensor, bias: torch.Tensor | None, activation: str, gate_first: bool
) -> torch.Tensor:
    """The same in plain torch: with a bias in fp32 and rounded once, without as stock does it."""
    a, b = (x if bias is None else x.float() + bias.float()).chunk(2, dim=-1)
    gate, value = (a, b) if gate_first else (b, a)
    return activated(gate, activation).mul_(value).to(x.dtype)


def activated_product_reference(
    gate: torch.Tensor, value: torch.Tensor, activation: str
) -> torch.Tensor:
    """The same in plain torch, each step rounded, as stock does it."""
    return activated(gate, activation).mul_(value).to(gate.dtype)


def activation_reference(
    x: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    """The same in plain torch, in fp32 and rounded once."""
    return activated(x if bias is None else x.float() + bias.float(), activation).to(x.dtype)


def gated_activation_cost(hidden_states: torch.Tensor, bias: torch.Tensor | None = None) -> Cost:
    """One read of x and one write of y, half as large; 12 FLOPs a result."""
    results = hidden_states.numel() // 2
    return Cost(size(hidden_states, bias) + results * hidden_states.element_size(), 12 * results)


def activated_product_cost(gate: torch.Tensor, value: torch.Tensor) -> Cost:
    """Two reads and one write; 12 FLOPs a result."""
    return Cost(size(gate, value, gate), 12 * gate.numel())


def activation_cost(hidden_states: torch.Tensor, bias: torch.Tensor | None = None) -> Cost:
    """One read of x and one write of y; 12 FLOPs a result."""
    results = hidden_states.numel()
    return Cost(size(hidden_states, bias) + results * hidden_states.element_size(), 12 * results)


def ahead_of_time() -> Iterator[str]:
    """Launch the kernel at the shapes of real models, for compiling without a GPU; see `ahead`."""
    for name, tokens, channels, act, gate_first in (
        ("SD1.5 GEGLU", 4096, 1280, "gelu", False),
        ("SDXL GEGLU", 1024, 5120, "gelu", False),
        ("Stable Audio SwiGLU", 1024, 6144, "silu", False),
        ("FLUX.2 SwiGLU", 4096, 18432, "silu", True),
    ):
        x = torch.empty(2, tokens, 2 * channels, dtype=torch.bfloat16, device="meta")
        _run_halves(x, None, act, gate_first)
        yield name
    x = torch.empty(2, 4096, 9216, dtype=torch.bfloat16, device="meta")
    _run(x, x, None, "silu", gate_first=True)
    yield "Lumina2 SwiGLU of two projections"
    for name, channels, act in (
        ("FLUX GELU-tanh", 12288, "gelu_tanh"),
        ("Wan-14B GELU-tanh", 13824, "gelu_tanh"),
        ("HunyuanVideo SiLU", 12288, "silu"),
    ):
        x = torch.empty(1, 4096, channels, dtype=torch.bfloat16, device="meta")
        _run(x, None, None, act)
        yield name
        _run(x, None, x.new_empty(channels), act)
        yield f"{name} with bias"


_GATED_OP = Operator(
    "gated_activation",
    "(Tensor x, Tensor? bias, str activation, bool gate_first) -> Tensor",
    launch=_run_halves,
    reference=gated_activation_reference,
    fake=lambda x, *_: x.new_empty((*x.shape[:-1], x.shape[-1] // 2)),
)
_OP = Operator(
    "activation",
    "(Tensor x, Tensor? bias, str activation) -> Tensor",
    launch=lambda x, bias, act: _run(x, None, bias, act),
    reference=activation_reference,
    fake=lambda x, *_: x.new_empty(x.shape),
)
_PRODUCT_OP = Operator(
    "activated_product",
    "(Tensor gate, Tensor value, str activation) -> Tensor",
    launch=lambda gate, value, act: _run(gate, value, None, act, gate_first=True),
    reference=activated_product_reference,
    fake=lambda gate, *_: gate.new_empty(gate.shape),
)
