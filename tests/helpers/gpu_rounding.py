"""Triton's interpreter, rounding as a GPU does.

By itself it cuts bf16 off instead of rounding it, and loses the carry where fp8 rounds up to the
next power of two: 127.7 becomes 64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_TYPES = {
    tl.float32: (torch.float32, torch.int32),
    tl.float16: (torch.float16, torch.int16),
    tl.bfloat16: (torch.bfloat16, torch.int16),
    tl.float8e4nv: (torch.float8_e4m3fn, torch.uint8),
}


def _convert(data: Any, source: tl.dtype, target: tl.dtype, _: Any) -> Any:
    """Bits of a type as bits of another, rounded to nearest, ties to even."""
    kind, bits = _TYPES[source]
    given = torch.from_numpy(np.ascontiguousarray(data).view(str(bits).removeprefix("torch.")))
    kind, given = _TYPES[target][0], given.view(kind)
    return given.to(kind).view(_TYPES[target][1]).numpy().reshape(data.shape)


@contextmanager
def gpu_rounding() -> Iterator[None]:
    """Within it the interpreter's conversions are a GPU's."""
    with mock.patch.object(interpreter, "_convert_float", _convert):
        yield
