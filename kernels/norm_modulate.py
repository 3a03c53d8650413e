"""LayerNorm or RMSNorm of each token, then scale and shift, in one pass over memory.

    y = norm(x) * weight + bias                 norm: (x - mean) * rstd, or x * rrms
    y = y * (scale_offset + scale) + shift      scale_offset: 1, or 0 where scale holds it already

Shapes: x (B, ..., C); weight and bias (C,); scale and shift (C,), (B, C), or anything that
broadcasts to x's shape; y as x, contiguous. Statistics and arithmetic are fp32, rounded once. A
token is held in registers, so beyond 16,384 channels plain torch computes.

Memory: x is read once and y written once, 4 bytes an element in 16 bit. Plain torch reads and
writes it twice (norm, then modulate), and up to nine times where the norm is spelled out in fp32.
About 8 FLOPs an element.

`norm_modulate_quantized` writes y in 8 bit (fp8 e4m3 or int8) and a scale for each token instead:
3 bytes an element, and the next GEMM needs no pass of its own to quantize.

adaLN: Peebles and Xie, "Scalable Diffusion Models with Transformers" (2023); RMSNorm: Zhang and
Sennrich (2019).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .arguments import check_choice
from .cost import Cost, size
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
def _norm_modulate_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,
    shift_ptr,
    y_ptr,
    row_scale_ptr,
    rows,
    tokens,
    channels,
    x_batch,
    x_token,
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

    x = load_rows(x_ptr, batch, token, x_batch, x_token, channel, inside)
    y = normalise(x, inside, channels, eps, RMS)
    y = affine(y, weight_ptr, bias_ptr, channel, channels)
    if scale_ptr is not None:
        scale = load_rows(scale_ptr, batch, token, scale_batch, scale_token, channel, inside)
        y = y * (scale_offset + scale)
    if shift_ptr is not None:
        y = y + load_rows(shift_ptr, batch, token, shift_batch, shift_token, channel, inside)
    store_rows(y_ptr, row_scale_ptr, y, row, rows, channel, channels, inside, LARGEST)


def _run(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    kind: str,
    eps: float,
    scale_offset: float = 1.0,
    quantized: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """y, and the scale of each token where y is quantized."""
    y, row_scale, largest = outputs(x, quantized)
    seen = tokens_of(x)
    batches, tokens, channels = seen.shape
    config, rows = row_config(channels), batches * tokens
    arguments = {
        **strided("x", seen),
        **strided("scale", modulation_of("scale", scale, x)),
        **strided("shift", modulation_of("shift", shift, x)),
        "weight_ptr": weight,
        "bias_ptr": bias,
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
    launch(_norm_modulate_kernel, grid, arguments, constants, config)
    return y, row_scale


def norm_modulate(
    hidden_states: torch.Tensor,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    *,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    kind: Kind = "layer",
    eps: float = 1e-6,
    scale_offset: float = 1.0,
) -> torch.Tensor:
    """The norm of hidden_states (B, ..., C), modulated, in its dtype; the formula stands above.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    check_norm(hidden_states, scale, shift, weight, bias, kind)
    return _OP(hidden_states, scale, shift, weight, bias, kind, eps, scale_offset)


def norm_modulate_quantized(
    hidden_states: torch.Tensor,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    *,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    kind: Kind = "layer",
    eps: float = 1e-6,
    scale_offset: float = 1.0,
    dtype: Quantized = "fp8",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in 8 bit, and the fp32 scale of each token (B, ...): y is about quantized * scale.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    check_norm(hidden_states, scale, shift, weight, bias, kind)
    check_choice("dtype", dtype, tuple(QUANTIZED))
    return _QUANTIZED_OP(hidden_states, scale, shift, weight, bias, kind, eps, scale_offset, dtype)


def norm_modulate_reference(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    kind: str,
    eps: float,
    scale_offset: float = 1.0,
) -> torch.Tensor:
    """The same in plain torch, in x's dtype: as far from the truth as diffusers is."""
    return norm_reference(x, scale, shift, weight, bias, kind, eps, scale_offset)


def norm_modulate_quantized_reference(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    kind: str,
    eps: float,
    scale_offset: float,
    dtype: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain torch, quantized from fp32."""
    y = norm_reference(x.float(), scale, shift, weight, bias, kind, eps, scale_offset)
    return quantize_rows(y, dtype)


def norm_modulate_cost(
    hidden_states: torch.Tensor,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> Cost:
    """One read of everything and one write of y; 8 FLOPs an element."""
    return Cost(
        size(hidden_states, hidden_states, scale, shift, weight, bias),
        8 * hidden_states.numel(),
    )


def ahead_of_time() -> Iterator[str]:
    """Launch the kernel at the shapes of real models, for compiling without a GPU; see `ahead`."""
    for name, channels, kind, modulated in (
        ("SD1.5 LayerNorm", 320, "layer", False),
        ("PixArt adaLN", 1152, "layer", True),
        ("FLUX adaLN", 3072, "layer", True),
        ("Wan-14B RMSNorm", 5120, "rms", False),
    ):
        x = torch.empty(2, 4096, channels, dtype=torch.bfloat16, device="meta")
        per_sample = x.new_empty(2, channels) if modulated else None
        weight = None if modulated else x.new_empty(channels)
        bias = None if modulated or kind == "rms" else weight
        _run(x, per_sample, per_sample, weight, bias, kind, 1e-6)
        yield name
        if modulated:
            _run(x, per_sample, per_sample, None, None, kind, 1e-6, 1.0, "fp8")
            yield f"{name} to fp8"


_OP = Operator(
    "norm_modulate",
    "(Tensor x, Tensor? scale, Tensor? shift, Tensor? weight, Tensor? bias, str kind, float eps, "
    "float scale_offset)"
    " -> Tensor",
    launch=lambda *arguments: _run(*arguments)[0],
    reference=norm_modulate_reference,
    fake=lambda x, *_: x.new_empty(x.shape),
)
_QUANTIZED_OP = Operator(
    "norm_modulate_quantized",
    "(Tensor x, Tensor? scale, Tensor? shift, Tensor? weight, Tensor? bias, str kind, float eps, "
    "float scale_offset, str dtype) -> (Tensor, Tensor)",
    launch=_run,
    reference=norm_modulate_quantized_reference,
    fake=lambda x, *rest: (
        x.new_empty(x.shape, dtype=QUANTIZED[rest[-1]][0]),
        x.new_empty(x.shape[:-1], dtype=torch.float32),
    ),
)
