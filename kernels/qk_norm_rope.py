"""The norm of query and key, and their rotation by position, in place and in one launch.

    y = norm(x) * weight + bias         norm: (x - mean) * rstd, or x * rrms
    x = y, rotated in pairs of channels as in `rotary`

Shapes: query (B, S, H, D) and key (B, S, Hk, D), with any strides as long as channels lie side by
side: views into a packed (B, S, 3, H, D) will do, and so will transposed (B, H, S, D). Key may have
another number of heads (GQA), or none for query alone, and, where nothing is rotated, of tokens
(cross-attention). The norm is taken of each head, weight and bias (D,); or across heads, weight and
bias (H * D,). norm=None only rotates, cos=None only normalises. Arithmetic is fp32, rounded once.
What one norm is taken of is held in registers: beyond 16,384 channels, heads and channels each
rounded up to a power of two, plain torch computes.

cos and sin come in all forms of `rotary`: (S, D), (S, D/2), with a batch, with heads; `tables`
makes them of complex numbers. LTX rotates (B, S, H * D) by tables of that shape: give query as
query.unflatten(2, (H, D)), and the tables as they are. Where only a head's first channels are
rotated, `rotary_dim` says how many: the width of tables can't, D/2 may be all once or half twice.
Text before or after what is rotated is left out by slicing: query[:, text:].

Memory: query and key are read once and written once, 4 bytes an element in 16 bit. Plain torch
takes up to 86: 34 for diffusers' RMSNorm, 52 for its apply_rotary_emb. The tables cross the bus
once. Up to 11 FLOPs an element.

One launch serves both tensors, since key alone may be too small to fill a GPU: programs are
numbered through query and then key, and choose pointers and strides by their number, a dozen
instructions without a jump. A program has heads of one token, which share a line of the tables.
Weights and tables are loaded as tiles of query's shape, each head the same: so all have one layout,
every load takes 16 bytes, and only sums across heads go through shared memory.

Sources: Henry et al., "Query-Key Normalization for Transformers" (2020); Dehghani et al., "Scaling
Vision Transformers to 22 Billion Parameters" (2023); for the rotation see `rotary`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch

from .cost import Cost, size
from .language import tl, triton
from .operator import Config, Operator, UnsupportedError, launch
from .pieces import in_pieces
from .qk_arguments import check_head_norm, check_heads
from .qk_in_pieces import norm_rope_in_pieces
from .rotary import (
    Layout,
    check_tables,
    load_pairs,
    pairs_of,
    read_tables,
    rotated,
    store_pairs,
    tables,
    turn,
    unit_of,
)
from .rows import norm_reference

Norm = Literal["rms", "layer"]

MOST_CHANNELS = 16384
"""What one norm is taken of is held in registers as a whole, heads and channels each padded to a
power of two."""


@triton.jit
def _mean(first, second, count, ACROSS: tl.constexpr):
    """The mean of each head (HEADS, 1), or of all of them (1, 1)."""
    total = tl.sum(first + second, axis=1, keep_dims=True)
    if ACROSS:
        total = tl.sum(total, axis=0, keep_dims=True)
    return total / count


@triton.jit
def _qk_norm_rope_kernel(
    query_ptr,
    query_weight_ptr,
    query_bias_ptr,
    key_ptr,
    key_weight_ptr,
    key_bias_ptr,
    cos_ptr,
    sin_ptr,
    query_programs,
    query_tokens,
    query_heads,
    query_batch,
    query_token,
    query_head,
    key_tokens,
    key_heads,
    key_batch,
    key_token,
    key_head,
    table_batch,
    table_token,
    table_head,
    eps,
    NORM: tl.constexpr,
    ACROSS: tl.constexpr,
    HALF: tl.constexpr,
    FORM: tl.constexpr,
    DIM: tl.constexpr,
    TURNED: tl.constexpr,
    UNIT: tl.constexpr,
    TABLE_UNIT: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    program = tl.program_id(0)
    if program < query_programs:
        x_ptr, weight_ptr, bias_ptr = query_ptr, query_weight_ptr, query_bias_ptr
        tokens, heads = query_tokens, query_heads
        x_batch, x_token, x_head = query_batch, query_token, query_head
    else:
        program -= query_programs
        x_ptr, weight_ptr, bias_ptr = key_ptr, key_weight_ptr, key_bias_ptr
        tokens, heads = key_tokens, key_heads
        x_batch, x_token, x_head = key_batch, key_token, key_head

    blocks = tl.cdiv(heads, HEADS)
    head = (program % blocks * HEADS + tl.arange(0, HEADS))[:, None]
    token = (program // blocks % tokens).to(tl.int64)
    batch = (program // blocks // tokens).to(tl.int64)
    inside = head < heads

    row = (batch * x_batch + token * x_token + head.to(tl.int64) * x_head) * UNIT
    first, second = load_pairs(x_ptr, row, inside, HALF, DIM, TURNED, PAIRS)
    if NORM is not None:
        count = heads * DIM if ACROSS else DIM
        if NORM == "layer":
            mean = _mean(first, second, count, ACROSS)
            pair = tl.arange(0, PAIRS)[None, :]
            within = pair < TURNED // 2 if HALF else 2 * pair < DIM
            first = tl.where(inside & within, first - mean, 0.0)
            within = pair < DIM - TURNED // 2 if HALF else 2 * pair + 1 < DIM
            second = tl.where(inside & within, second - mean, 0.0)
        rstd = tl.rsqrt(_mean(first * first, second * second, count, ACROSS) + eps)
        first, second = first * rstd, second * rstd
        place = head * (DIM if ACROSS else 0)
        if weight_ptr is not None:
            weights = load_pairs(weight_ptr, place, inside, HALF, DIM, TURNED, PAIRS)
            first, second = first * weights[0], second * weights[1]
        if bias_ptr is not None:
            biases = load_pairs(bias_ptr, place, inside, HALF, DIM, TURNED, PAIRS)
            first, second = first + biases[0], second + biases[1]
    if FORM is not None:
        place = batch * table_batch + token * table_token + head.to(tl.int64) * table_head
        place *= TABLE_UNIT
        first, second = turn(first, second, cos_ptr, sin_ptr, place, inside, FORM, TURNED, PAIRS)
    store_pairs(x_ptr, row, inside, first, second, HALF, DIM, TURNED, PAIRS)


def _run(
    query: torch.Tensor,
    key: torch.Tensor,
    query_weight: torch.Tensor | None,
    key_weight: torch.Tensor | None,
    query_bias: torch.Tensor | None,
    key_bias: torch.Tensor | None,
    norm: str | None,
    across_heads: bool,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    layout: str,
    rotary_dim: int,
    eps: float,
) -> None:
    dim, turned = query.shape[-1], 0 if cos is None else rotary_dim
    half = turned > 0 and layout != "interleaved"
    blocks = _blocks(query, key, dim - turned // 2 if half else (dim + 1) // 2, across_heads)
    programs = [
        each.shape[0] * each.shape[1] * triton.cdiv(each.shape[2], blocks["HEADS"])
        for each in (query, key)
    ]
    form = None
    if cos is not None and sin is not None:
        form, cos, sin = read_tables(cos, sin, query, layout, rotary_dim)
    strides = (0, 0, 0) if cos is None else cos.expand(-1, -1, query.shape[2], -1).stride()[:3]
    unit = unit_of(8, *query.stride()[:3], *key.stride()[:3])
    table_unit = unit_of(4, *strides)
    arguments = {
        **_strided("query", query, query_weight, query_bias, unit),
        **_strided("key", key, key_weight, key_bias, unit),
        "query_programs": programs[0],
        "cos_ptr": cos,
        "sin_ptr": sin,
        "table_batch": strides[0] // table_unit,
        "table_token": strides[1] // table_unit,
        "table_head": strides[2] // table_unit,
        "eps": eps,
    }
    constants = {
        "NORM": norm,
        "ACROSS": across_heads,
        "HALF": half,
        "FORM": form,
        "DIM": dim,
        "TURNED": turned,
        "UNIT": unit,
        "TABLE_UNIT": table_unit,
    }
    config = partial(_config, blocks)
    launch(_qk_norm_rope_kernel, (sum(programs),), arguments, constants, config)


def _strided(
    name: str, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, unit: int
) -> dict[str, object]:
    """A kernel's arguments for query or key."""
    return {
        f"{name}_ptr": x,
        f"{name}_weight_ptr": None if weight is None else weight.contiguous(),
        f"{name}_bias_ptr": None if bias is None else bias.contiguous(),
        f"{name}_tokens": x.shape[1],
        f"{name}_heads": x.shape[2],
        f"{name}_batch": x.stride(0) // unit,
        f"{name}_token": x.stride(1) // unit,
        f"{name}_head": x.stride(2) // unit,
    }


def _blocks(
    query: torch.Tensor, key: torch.Tensor, pairs: int, across_heads: bool
) -> dict[str, int]:
    """A program has all heads that share a norm; else as many as make 4,096 channels.

    Fewer where more than a quarter of all programs' room would stay empty: 32 for 24 heads, 16 for
    40. Raises `UnsupportedError` beyond the kernel's limits.
    """
    pairs = max(8, triton.next_power_of_2(pairs))
    given = (query.shape[2], key.shape[2])
    heads = triton.next_power_of_2(max(1, *given))
    if not across_heads:
        heads = min(heads, max(1, 2048 // pairs))
        while 3 * heads * sum(triton.cdiv(each, heads) for each in given) > 4 * sum(given):
            heads //= 2
    if 2 * pairs * heads > MOST_CHANNELS:
        raise UnsupportedError(f"more than {MOST_CHANNELS} channels share a norm")
    return {"HEADS": heads, "PAIRS": pairs}


def _config(blocks: Mapping[str, int], chip: str) -> Config:
    """16 channels a thread: two 16-byte loads in 16 bit; with 32, some chips spill in fp32."""
    lanes = 64 if chip.startswith("gfx") else 32
    channels = 2 * blocks["HEADS"] * blocks["PAIRS"]
    return Config(blocks, warps=max(1, channels // (16 * lanes)))


def qk_norm_rope(
    query: torch.Tensor,
    key: torch.Tensor,
    *,
    query_weight: torch.Tensor | None = None,
    key_weight: torch.Tensor | None = None,
    query_bias: torch.Tensor | None = None,
    key_bias: torch.Tensor | None = None,
    norm: Norm | None = "rms",
    across_heads: bool = False,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    layout: Layout = "interleaved",
    rotary_dim: int | None = None,
    eps: float = 1e-6,
) -> None:
    """Normalise and rotate query and key where they lie; shapes as above.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    rotary_dim = query.shape[-1] if rotary_dim is None else rotary_dim
    weights = (query_weight, key_weight, query_bias, key_bias)
    check_heads(query, key)
    check_head_norm(query, key, weights, norm, across_heads)
    check_tables(query, key, cos, sin, layout, rotary_dim)
    _OP(query, key, *weights, norm, across_heads, cos, sin, layout, rotary_dim, eps)


def qk_norm_rope_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    query_weight: torch.Tensor | None,
    key_weight: torch.Tensor | None,
    query_bias: torch.Tensor | None,
    key_bias: torch.Tensor | None,
    norm: str | None,
    across_heads: bool,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    layout: str,
    rotary_dim: int,
    eps: float,
) -> None:
    """The same in plain torch, the norm in x's dtype: as far from the truth as diffusers is."""
    if cos is not None and sin is not None:
        cos, sin = (pairs_of("", each, query, layout, rotary_dim) for each in (cos, sin))
    for x, weight, bias in ((query, query_weight, query_bias), (key, key_weight, key_bias)):
        if in_pieces(x):
            affine = (weight, bias, norm, across_heads)
            norm_rope_in_pieces(x, *affine, cos, sin, layout, rotary_dim, eps)
            continue
        y = x.flatten(2) if across_heads else x
        if norm is not None and x.numel():
            y = norm_reference(y, None, None, weight, bias, norm, eps)
        y = y.view(x.shape)
        if cos is not None and sin is not None:
            y = rotated(y.float(), cos, sin, layout, rotary_dim)
        x.copy_(y)


def qk_norm_rope_cost(
    query: torch.Tensor,
    key: torch.Tensor,
    *,
    query_weight: torch.Tensor | None = None,
    key_weight: torch.Tensor | None = None,
    query_bias: torch.Tensor | None = None,
    key_bias: torch.Tensor | None = None,
    norm: Norm | None = "rms",
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
) -> Cost:
    """Two reads, two writes, weights, tables; 8 FLOPs to normalise an element, 3 to rotate it."""
    affine = (query_weight, key_weight, query_bias, key_bias)
    flops = 8 * (norm is not None) + 3 * (cos is not None)
    return Cost(size(*(query, key) * 2, *affine, cos, sin), flops * (query.numel() + key.numel()))


def ahead_of_time() -> Iterator[str]:
    """Launch the kernel at the shapes of real models, for compiling without a GPU; see `ahead`."""
    cases: tuple[tuple[Any, ...], ...] = (
        ("FLUX", 24, 24, 128, "rms", False, "interleaved", (4096, 128)),
        ("HunyuanVideo", 24, 24, 128, "rms", False, "interleaved", (4096, 64)),
        ("HunyuanDiT", 16, 16, 88, "layer", False, "interleaved", (4096, 88)),
        ("Lumina2", 24, 8, 96, "rms", False, "interleaved", (2, 4096, 48, 2)),
        ("Wan-14B", 40, 40, 128, "rms", True, "interleaved", (1, 4096, 1, 128)),
        ("LTX", 32, 32, 64, "rms", True, "interleaved", (2, 4096, 2048)),
        ("SD3", 24, 24, 64, "rms", False, "interleaved", None),
        ("CogView4", 32, 32, 128, "layer", False, "half", (4096, 128)),
        ("ErnieImage", 24, 24, 128, "rms", False, "half_each", (2, 4096, 1, 128)),
    )
    for name, heads, key_heads, dim, norm, across_heads, layout, shape in cases:
        all_heads = heads + 2 * key_heads
        packed = torch.empty(2, 4096, all_heads, dim, dtype=torch.bfloat16, device="meta")
        query, key, _ = packed.split((heads, key_heads, key_heads), 2)
        weights = [
            packed.new_empty(dim * (x.shape[2] if across_heads else 1)) for x in (query, key)
        ]
        biases = weights if name == "HunyuanDiT" else (None, None)
        cos = sin = None if shape is None else packed.new_empty(shape, dtype=torch.float32)
        if name == "Lumina2":
            cos, sin = tables(torch.view_as_complex(packed.new_empty(shape, dtype=torch.float32)))
        affine = (weights[0], weights[1], biases[0], biases[1])
        _run(query, key, *affine, norm, across_heads, cos, sin, layout, dim, 1e-6)
        yield name


_OP = Operator(
    "qk_norm_rope",
    "(Tensor(a!) query, Tensor(b!) key, Tensor? query_weight, Tensor? key_weight, "
    "Tensor? query_bias, Tensor? key_bias, str? norm, bool across_heads, Tensor? cos, Tensor? sin, "
    "str layout, int rotary_dim, float eps) -> ()",
    launch=_run,
    reference=qk_norm_rope_reference,
    fake=lambda *_: None,
)
