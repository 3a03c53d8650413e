"""Attention on a CPU with AVX-512, in C++: `attention_native.cpp`, which tells how it works.

    y = softmax(query key^T * scale) value

Shapes: query (B, H, S, D), key and value (B, Hk, T, D), Hk a divisor of H, any strides as long as
channels lie side by side; y as query, stored (B, S, H, D). fp32, and bf16 where the CPU multiplies
it (AVX512_BF16); no masks. Scores, softmax and sums are fp32, rounded once. As near to the truth as
torch's kernel: 2.2e-3 in bf16 (relative L2, normal values, 4,096 tokens).

Memory: one packed copy of key and value, and 64 queries at a time in each core's first caches.

Torch's own kernel multiplies bf16 by a library that has AMX or nothing: on two cores of an AMD EPYC
(Zen 5) 270 ms for SD1.5's self-attention at 4,096 tokens (B 2, H 8, D 40), 16% of the matmul
ceiling, where this takes 64.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import torch

from ..machine import processor
from .native import AVX512, BuildError, library, tiles_allowed, without_avx512
from .operator import UnsupportedError

_HALF = ("avx512bf16",)
_TILES = ("amx-tile", "amx-bf16")
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class _Tensor(ctypes.Structure):
    """The C++ side's view of a tensor (B, H, S, D): strides in elements."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("token", ctypes.c_int64),
    )

    @classmethod
    def of(cls, x: torch.Tensor) -> _Tensor:
        return cls(x.data_ptr(), *x.stride()[:3])


def attention_native(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of CPU tensors that go together; shapes as above.

    Raises `UnsupportedError` for a CPU, a dtype or strides that it can't serve, and where it can't
    be built.
    """
    reason = unavailable(query.dtype)
    if reason is None and any(
        each.stride(-1) != 1 and each.shape[-1] > 1 for each in (query, key, value)
    ):
        reason = "channels don't lie side by side"
    if reason is not None:
        raise UnsupportedError(reason)
    batches, heads, queries, channels = query.shape
    y = query.new_empty(batches, queries, heads, channels).transpose(1, 2)
    if not y.numel() or not key.shape[2]:
        return y.zero_()
    sizes = (batches, heads, key.shape[1], queries, key.shape[2], channels)
    failed = _function(query.dtype)(
        (ctypes.c_int64 * 6)(*sizes),
        (_Tensor * 4)(*(_Tensor.of(each) for each in (query, key, value, y))),
        scale * math.log2(math.e),
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"attention over {key.shape[2]} tokens: no memory to pack them")
    return y


@functools.cache
def unavailable(dtype: torch.dtype) -> str | None:
    """Why this CPU can't compute attention so in a dtype, or None. Builds the library at first."""
    features = processor().features
    if dtype not in _DTYPES:
        return f"no attention of its own for {str(dtype).removeprefix('torch.')} on a CPU"
    if (reason := without_avx512()) is not None:
        return reason
    if dtype == torch.bfloat16 and "avx512_bf16" not in features:
        return "this CPU can't multiply bfloat16 (no AVX512_BF16)"
    try:
        _function(dtype)
    except BuildError as error:
        return str(error)
    return None


@functools.cache
def _function(dtype: torch.dtype) -> Any:
    features = processor().features
    half = _HALF if "avx512_bf16" in features else ()
    tiles = _TILES if half and "amx_bf16" in features and tiles_allowed() else ()
    built = library("attention_native", AVX512 + half + tiles)
    function = getattr(built, f"sdaccel_attention_{_DTYPES[dtype]}")
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float, ctypes.c_int)
    return function
