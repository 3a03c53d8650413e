"""Attention: softmax(query @ key.T * scale + mask) @ value, and the logits never reach memory.

Shapes: query (B, H, S, D), key and value (B, Hk, T, D) with layout="bhsd", or with heads and tokens
swapped with layout="bshd". D is 1 to 256. Any strides will do as long as a head's channels lie side
by side: views of a packed (B, S, 3, H, D) too. Where rows don't begin at multiples of 16 bytes, as
with a D of 17, and where samples are expanded, they are copied first; expanded key heads are not.
Hk divides H: each key head serves H / Hk query heads that follow one another (GQA). The result is
in query's shape and dtype; in memory it is (B, S, H, D) for both layouts, so that merging the heads
into (B, S, H * D) copies nothing.

Memory: query, key and value are read once and the result is written once, as far as the keys and
values of the heads at work fit into L2: 2 * (2 * S + 2 * T) bytes a channel and head in 16 bit.
4 * S * T * D FLOPs a head. Products of 16-bit inputs have their weights rounded to that dtype, as
all fused attention has; logits, softmax and sums are fp32. fp32 inputs are multiplied as three
products of TF32 parts on NVIDIA's matrix units (what is left out is 2^-22 of a product), on AMD's
in fp32. Wider heads than 256 take torch's attention, and on NVIDIA's in fp32 those than 64, on
sm_90 than 96.

On a CPU with AVX-512 machine code computes what has no mask (`attention_native`), else torch does.

Sources and the algorithm: `attention_tiles`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..errors import ArgumentError
from .arguments import check_choice, check_device, check_float
from .attention_arguments import (
    Layout,
    check_lengths,
    check_tensors,
    empty_result,
    heads_before_tokens,
)
from .attention_launch import run
from .attention_native import attention_native
from .cost import Cost, size
from .operator import Operator, UnsupportedError


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    key_lengths: torch.Tensor | None = None,
    scale: float | None = None,
    layout: Layout = "bhsd",
) -> torch.Tensor:
    """The attention of query to key and value; shapes as above.

    mask: whether a key takes part (boolean), or what is added to its logit; expands to
    (B, H, S, T). key_lengths (B,), int32: only so many keys take part. scale: 1 / sqrt(D) unless
    given. A query that no key takes part for gets zeros, where torch's backends give zeros or NaN.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    check_choice("layout", layout, ("bhsd", "bshd"))
    check_tensors(query, key, value, layout)
    heads_first = [heads_before_tokens(each, layout) for each in (query, key)]
    _check_mask(query, mask, (*heads_first[0].shape[:3], heads_first[1].shape[2]))
    check_lengths(query, key_lengths)
    return _OP(query, key, value, mask, key_lengths, scale, layout)


def _check_mask(
    query: torch.Tensor, mask: torch.Tensor | None, shape: tuple[int, int, int, int]
) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool:
        check_float(mask=mask)
    check_device(query=query, mask=mask)
    sizes = zip(reversed(mask.shape), reversed(shape), strict=False)
    if mask.dim() > 4 or any(length not in (1, wanted) for length, wanted in sizes):
        raise ArgumentError(f"mask expands to {list(shape)}; {list(mask.shape)} does not")


def _run(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    key_lengths: torch.Tensor | None,
    scale: float | None,
    layout: str,
) -> torch.Tensor:
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query, key, value = (heads_before_tokens(each, layout) for each in (query, key, value))
    out = run(query, key, value, mask, key_lengths, scale)
    return out if layout == "bshd" else out.transpose(1, 2)


def _run_on_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    key_lengths: torch.Tensor | None,
    scale: float | None,
    layout: str,
) -> torch.Tensor:
    if mask is not None or key_lengths is not None:
        raise UnsupportedError("machine code for a CPU takes no masks")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query, key, value = (heads_before_tokens(each, layout) for each in (query, key, value))
    return heads_before_tokens(attention_native(query, key, value, scale), layout)


def attention_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    key_lengths: torch.Tensor | None,
    scale: float | None,
    layout: str,
) -> torch.Tensor:
    """torch's own scaled dot product attention, with zeros for queries without keys."""
    if key.numel() == 0:
        return empty_result(query, layout).zero_()
    query, key, value = (heads_before_tokens(each, layout) for each in (query, key, value))
    mask = None if mask is None else mask[(None,) * (4 - mask.dim())]
    if key_lengths is not None:
        within = torch.arange(key.shape[2], device=key.device) < key_lengths[:, None]
        mask = _joined(mask, within[:, None, None])
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query.dtype)
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, mask, scale=scale, enable_gqa=key.shape[1] != query.shape[1]
    )
    if mask is not None and out.device.type != "cpu":  # a CPU's backends give zeros themselves
        present = mask if mask.dtype == torch.bool else mask != float("-inf")
        out = out.masked_fill_(~present.any(-1, keepdim=True), 0)
    stored = out.transpose(1, 2).contiguous()
    return stored if layout == "bshd" else stored.transpose(1, 2)


def _joined(mask: torch.Tensor | None, within: torch.Tensor) -> torch.Tensor:
    if mask is None:
        return within
    if mask.dtype == torch.bool:
        return mask & within
    return torch.where(within, mask, float("-inf"))


def attention_cost(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    layout: Layout = "bhsd",
) -> Cost:
    """One read of everything and one write of the result; 4 * S * T * D FLOPs a head."""
    keys = heads_before_tokens(key, layout).shape[2]
    return Cost(size(query, query, key, value, mask), 4 * query.numel() * keys)


def ahead_of_time() -> Iterator[str]:
    """Launch the kernel at the shapes of real models, for compiling without a GPU; see `ahead`."""
    half, single, truth = torch.bfloat16, torch.float32, torch.bool
    for name, heads, kept, queries, keys, dim, dtype, mask, by_query in (
        ("FLUX", 24, 24, 4608, 4608, 128, half, None, False),
        ("SD1.5 64x64", 8, 8, 4096, 4096, 40, torch.float16, None, False),
        ("SD1.5 32x32", 8, 8, 1024, 1024, 80, torch.float16, None, False),
        ("SD1.5 16x16", 8, 8, 256, 256, 160, torch.float16, None, False),
        ("SD1.5 to text", 8, 8, 4096, 77, 40, torch.float16, None, False),
        ("SDXL and SD3", 24, 24, 4096, 4096, 64, half, None, False),
        ("PixArt to text", 16, 16, 4096, 300, 72, half, half, False),
        ("Lumina2", 24, 8, 4352, 4352, 96, half, truth, False),
        ("mask by query", 24, 24, 4096, 4096, 128, half, half, True),
        ("Wan-14B", 40, 40, 32760, 32760, 128, half, None, False),
        ("16 channels", 8, 8, 4096, 4096, 16, half, None, False),
        ("48 channels", 8, 8, 4096, 4096, 48, half, None, False),
        ("48 channels, mask", 8, 8, 4096, 4096, 48, half, truth, False),
        ("160 channels, mask by query", 8, 8, 4096, 4096, 160, half, half, True),
        ("192 channels, mask", 8, 8, 4096, 4096, 192, half, truth, False),
        ("256 channels", 8, 8, 4096, 4096, 256, half, None, False),
        ("256 channels, mask", 8, 8, 4096, 4096, 256, half, truth, False),
        ("256 channels, mask by query", 8, 8, 4096, 4096, 256, half, half, True),
        ("SDXL in fp32", 24, 24, 4608, 4608, 64, single, None, False),
        ("SD1.5 32x32 in fp32, mask by query", 8, 8, 1024, 1024, 80, single, single, True),
        ("SD1.5 in fp32, mask by query", 8, 8, 4096, 4096, 40, single, single, True),
    ):
        query = torch.empty(2, queries, heads, dim, dtype=dtype, device="meta")
        key = query.new_empty(2, keys, kept, dim)
        rows = queries if by_query else 1
        given = None if mask is None else query.new_empty(2, 1, rows, keys, dtype=mask)
        _run(query, key, key, given, None, None, "bshd")
        yield name
    query = torch.empty(2, 4096, 8, 257, dtype=half, device="meta")[..., :256]
    _run(query, query, query, None, None, None, "bshd")
    yield "256 channels of 257"


_OP = Operator(
    "attention",
    "(Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor? key_lengths, float? scale, "
    "str layout) -> Tensor",
    launch=_run,
    reference=attention_reference,
    fake=lambda query, *rest: empty_result(query, rest[-1]),
    native=_run_on_cpu,
)
