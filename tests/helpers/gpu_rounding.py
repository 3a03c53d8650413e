"""Triton's interpreter, rounding as a GPU does.

By itself it cuts bf16 off instead of rounding it, loses the carry where fp8 rounds up to the next
power of two, and multiplies matrices of bf16 by their bits.
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
    """Within it the interpreter's conversions and products are a GPU's."""
    product = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (self.cast_impl(each, tl.float32) for each in (a, b))
        return product(self, a, b, *rest)

    with (
        mock.patch.object(interpreter, "_convert_float", _convert),
        mock.patch.object(interpreter.InterpreterBuilder, "create_dot", create_dot),
    ):
        yield
