"""A gated residual and the next norm: one read and one write of each stream.

    stream = residual + gate * x
    y = norm(stream) * weight + bias, then * (scale_offset + scale) + shift, as in `norm_modulate`

Shapes: residual and x (B, ..., C); gate, scale and shift (C,), (B, C), or anything that broadcasts
to x's shape; stream and y as x, contiguous. A gate of None adds x as it is. Arithmetic is fp32; the
norm is taken of the stream before it is rounded. Beyond 16,384 channels plain torch computes.

Memory: two reads and two writes, 8 bytes an element in 16 bit, where plain torch takes at least 18:
the gate (4), the sum (6), norm (4) and modulate (4). About 10 FLOPs an element.

`gated_residual_norm_quantized` writes y in 8 bit with a scale for each token.

Source: the block of Peebles and Xie, "Scalable Diffusion Models with Transformers" (2023).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .arguments import check_choice, check_device, check_float, check_shape
from .cost import Cost, size
from .gated_residual import gated_residual_reference
from .language import tl, triton
from .operator import Operator, launch
from .rows import (
    QUANTIZED,
    Kind,
    Quantized,
    affine,
    check_norm,
    load_rows,
    modulation_of,
    norm_reference,
    normalise,
    outputs,
    quantize_rows,
    row_config,
    store_rows,
    strided,
    tokens_of,
)


@triton.jit
def _gated_residual_norm_kernel(
    residual_ptr,
    x_ptr,
    gate_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,
    shift_ptr,
    stream_ptr,
    y_ptr,
    row_scale_ptr,
    rows,
    tokens,
    channels,
    residual_batch,
    residual_token,
    x_batch,
    x_token,
    gate_batch,
    gate_token,
    scale_batch,
    scale_token,
    shift_batch,
    shift_token,
    scale_offset,
    eps,
    RMS: tl.constexpr,
    LARGEST: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    batch, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)

    stream = load_rows(x_ptr, batch, token, x_batch, x_token, channel, inside)
    if gate_ptr is not None:
        stream *= load_rows(gate_ptr, batch, token, gate_batch, gate_token, channel, inside)
    stream += load_rows(residual_ptr, batch, token, residual_batch, residual_token, channel, inside)
    store_rows(stream_ptr, None, stream, row, rows, channel, channels, inside, 0)

    y = normalise(stream, inside, channels, eps, RMS)
    y = affine(y, weight_ptr, bias_ptr, channel, channels)
    if scale_ptr is not None:
        scale = load_rows(scale_ptr, batch, token, scale_batch, scale_token, channel, inside)
        y = y * (scale_offset + scale)
    if shift_ptr is not None:
        y = y + load_rows(shift_ptr, batch, token, shift_batch, shift_token, channel, inside)
    store_rows(y_ptr, row_scale_ptr, y, row, rows, channel, channels, inside, LARGEST)


def _run(
    residual: torch.Tensor,
    x: torch.Tensor,
    gate: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    kind: str,
    eps: float,
    scale_offset: float = 1.0,
    quantized: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The stream, y, and the scale of each token where y is quantized."""
    y, row_scale, largest = outputs(x, quantized)
    stream = torch.empty(x.shape, dtype=residual.dtype, device=x.device)
    seen = tokens_of(x)
    batches, tokens, channels = seen.shape
    config, rows = row_config(channels), batches * tokens
    arguments = {
        **strided("residual", tokens_of(residual)),
        **strided("x", seen),
        **strided("gate", modulation_of("gate", gate, x)),
        **strided("scale", modulation_of("scale", scale, x)),
        **strided("shift", modulation_of("shift", shift, x)),
        "weight_ptr": weight,
        "bias_ptr": bias,
        "stream_ptr": stream,
        "y_ptr": y,
        "row_scale_ptr": row_scale,
        "rows": rows,
        "tokens": tokens,
        "channels": channels,
        "scale_offset": scale_offset,
        "eps": eps,
    }
    constants = {"RMS": kind == "rms", "LARGEST": largest}
    grid = (triton.cdiv(rows, config.blocks["ROWS"]),)
    launch(_gated_residual_norm_kernel, grid, arguments, constants, config)
    return stream, y, row_scale


def gated_residual_norm(
    residual: torch.Tensor,
    hidden_states: torch.Tensor,
    gate: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    *,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    kind: Kind = "layer",
    eps: float = 1e-6,
    scale_offset: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The stream residual + gate * hidden_states, and its norm, modulated; shapes as above.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    _check(residual, hidden_states, gate)
    check_norm(hidden_states, scale, shift, weight, bias, kind)
    return _OP(residual, hidden_states, gate, scale, shift, weight, bias, kind, eps, scale_offset)


def gated_residual_norm_quantized(
    residual: torch.Tensor,
    hidden_states: torch.Tensor,
    gate: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    *,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    kind: Kind = "layer",
    eps: float = 1e-6,
    scale_offset: float = 1.0,
    dtype: Quantized = "fp8",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The stream, its norm in 8 bit, and the fp32 scale of each token (B, ...).

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    _check(residual, hidden_states, gate)
    check_norm(hidden_states, scale, shift, weight, bias, kind)
    check_choice("dtype", dtype, tuple(QUANTIZED))
    return _QUANTIZED_OP(
        residual, hidden_states, gate, scale, shift, weight, bias, kind, eps, scale_offset, dtype
    )


def _check(residual: torch.Tensor, x: torch.Tensor, gate: torch.Tensor | None) -> None:
    check_float(residual=residual, gate=gate)
    check_device(residual=residual, hidden_states=x, gate=gate)
    check_shape(x.shape, residual=residual)
    modulation_of("gate", gate, x)


def gated_residual_norm_reference(
    residual: torch.Tensor,
    x: torch.Tensor,
    gate: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    kind: str,
    eps: float,
    scale_offset: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain torch and the dtypes of its input: as far from the truth as diffusers."""
    stream = gated_residual_reference(residual, x, gate)
    y = norm_reference(stream, scale, shift, weight, bias, kind, eps, scale_offset)
    return stream, y.to(x.dtype)


def gated_residual_norm_quantized_reference(
    residual: torch.Tensor,
    x: torch.Tensor,
    gate: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    kind: str,
    eps: float,
    scale_offset: float,
    dtype: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same in plain torch, quantized from fp32."""
    stream = gated_residual_reference(residual.float(), x, gate)
    y = norm_reference(stream, scale, shift, weight, bias, kind, eps, scale_offset)
    return stream.to(residual.dtype), *quantize_rows(y, dtype)


def gated_residual_norm_cost(
    residual: torch.Tensor,
    hidden_states: torch.Tensor,
    gate: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> Cost:
    """Two reads and two writes, and the modulation; 10 FLOPs an element."""
    streams = (residual, hidden_states) * 2
    return Cost(size(*streams, gate, scale, shift), 10 * hidden_states.numel())


def ahead_of_time() -> Iterator[str]:
    """Launch the kernel at the shapes of real models, for compiling without a GPU; see `ahead`."""
    for name, channels in (("PixArt", 1152), ("FLUX", 3072), ("Wan-14B", 5120)):
        x = torch.empty(2, 4096, channels, dtype=torch.bfloat16, device="meta")
        sample = x.new_empty(2, channels)
        _run(x, x, sample, sample, sample, None, None, "layer", 1e-6)
        yield name
        _run(x, x, sample, sample, sample, None, None, "layer", 1e-6, 1.0, "fp8")
        yield f"{name} to fp8"


_OP = Operator(
    "gated_residual_norm",
    "(Tensor residual, Tensor x, Tensor? gate, Tensor? scale, Tensor? shift, Tensor? weight, "
    "Tensor? bias, str kind, float eps, float scale_offset) -> (Tensor, Tensor)",
    launch=lambda *arguments: _run(*arguments)[:2],
    reference=gated_residual_norm_reference,
    fake=lambda residual, x, *_: (residual.new_empty(x.shape), x.new_empty(x.shape)),
)
_QUANTIZED_OP = Operator(
    "gated_residual_norm_quantized",
    "(Tensor residual, Tensor x, Tensor? gate, Tensor? scale, Tensor? shift, Tensor? weight, "
    "Tensor? bias, str kind, float eps, float scale_offset, str dtype) -> (Tensor, Tensor, Tensor)",
    launch=_run,
    reference=gated_residual_norm_quantized_reference,
    fake=lambda residual, x, *rest: (
        residual.new_empty(x.shape),
        x.new_empty(x.shape, dtype=QUANTIZED[rest[-1]][0]),
        x.new_empty(x.shape[:-1], dtype=torch.float32),
    ),
)
