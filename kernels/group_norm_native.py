"""GroupNorm and SiLU on a CPU with AVX-512, in C++: `group_norm_native.cpp` tells how it works.

The op is `group_norm_silu`, with its shapes; fp32, bf16 or fp16, contiguous or channels-last.
Statistics are fp64 beyond 64 pixels, the rest is fp32, rounded once.

Memory: two reads and one write of the map; for up to 64 spans of pixels 16 bytes a channel.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import torch

from .native import AVX512, BuildError, library, without_avx512
from .operator import UnsupportedError

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def group_norm_native(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    silu: bool,
    add: torch.Tensor | None,
) -> torch.Tensor:
    """The op on CPU tensors that go together; x is contiguous or channels-last.

    Raises `UnsupportedError` for a CPU or a dtype that it can't serve, and where it can't be built.
    """
    reason = unavailable()
    if reason is None and x.dtype not in _DTYPES:
        reason = f"no group norm of its own for {str(x.dtype).removeprefix('torch.')} on a CPU"
    affine = {each.dtype for each in (weight, bias) if each is not None}
    if reason is None and (
        len(affine) > 1 or not affine | _dtypes(add) <= {x.dtype, torch.float32}
    ):
        reason = "weight, bias and add of other dtypes"
    if reason is not None:
        raise UnsupportedError(reason)
    y = torch.empty_like(x)
    if not x.numel():
        return y
    last = not x.is_contiguous()
    sizes = (*x.shape[:2], math.prod(x.shape[2:]), groups, last, silu)
    single = (torch.float32 in affine, torch.float32 in _dtypes(add))
    given = (x, *(None if each is None else each.contiguous() for each in (weight, bias, add)), y)
    failed = _function(x.dtype)(
        (ctypes.c_int64 * 8)(*sizes, *single),
        (ctypes.c_void_p * 5)(*(None if each is None else each.data_ptr() for each in given)),
        eps,
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"group norm of {list(x.shape)}: no memory for its statistics")
    return y


def _dtypes(tensor: torch.Tensor | None) -> set[torch.dtype]:
    return set() if tensor is None else {tensor.dtype}


@functools.cache
def unavailable() -> str | None:
    """Why this CPU can't norm so, or None. Builds the library at first."""
    reason = without_avx512()
    if reason is None:
        try:
            _function(torch.float32)
        except BuildError as error:
            reason = str(error)
    return reason


@functools.cache
def _function(dtype: torch.dtype) -> Any:
    function = getattr(library("group_norm_native", AVX512), f"sdaccel_group_norm_{_DTYPES[dtype]}")
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float, ctypes.c_int)
    return function
