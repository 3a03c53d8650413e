"""The kernel of `linear`: tiles of a matrix product, and what follows while they are in registers.

Tiles go down columns of GROUP tiles, so that those at work at a time share rows of x and of the
weight in the L2 cache. A persistent program computes one after the other, and fetches the operands
of the next while it stores. The epilogue goes by PARTS of a tile's columns: the residuals and gates
of a whole one, beside its sums, would not fit into registers.
"""

from __future__ import annotations

from .activations import activate
from .language import tl, triton
from .rows import load_rows


@triton.jit
def _place(tile, tall, wide, GROUP: tl.constexpr):
    """The row and the column of a tile, down columns of GROUP tiles."""
    group = tile // (GROUP * wide)
    first = group * GROUP
    height = tl.minimum(tall - first, GROUP)
    within = tile % (GROUP * wide)
    return first + within % height, within // height


@triton.jit
def _halves(tile):
    """The left and the right half of a tile's columns."""
    wide: tl.constexpr = tile.shape[1] // 2
    split = tl.reshape(tile, (tile.shape[0], 2, wide))
    return tl.split(tl.permute(split, (0, 2, 1)))


@triton.jit
def _part(tile, INDEX: tl.constexpr, PARTS: tl.constexpr):
    """One of 1, 2 or 4 parts of a tile's columns."""
    if PARTS == 1:
        part = tile
    else:
        left, right = _halves(tile)
        if PARTS == 2:
            part = left if INDEX == 0 else right
        else:
            near, far = _halves(left if INDEX < 2 else right)
            part = near if INDEX % 2 == 0 else far
    return part


@triton.jit
def _fetch(
    source,
    at,
    place,
    first,
    within,
    EVEN: tl.constexpr,
    WIDENED: tl.constexpr,
    TMA: tl.constexpr,
):
    """A tile (rows, INPUTS) of an operand, by its descriptor, or by pointer and offsets."""
    if TMA:
        tile = source.load([place, first])
    elif EVEN:
        tile = tl.load(source + first + at)
    else:
        tile = tl.load(source + first + at, within, 0.0)
    return tile.to(tl.float32) if WIDENED else tile


@triton.jit
def _biased(y, bias_ptr, column, outputs):
    """Sums and their bias, where there is one."""
    if bias_ptr is not None:
        y += tl.load(bias_ptr + column, column < outputs, 0.0).to(tl.float32)[None, :]
    return y


@triton.jit
def _finish(
    y,
    other,
    row,
    column,
    rows,
    outputs,
    tokens,
    bias_ptr,
    second_bias_ptr,
    gate_ptr,
    gate_batch,
    gate_token,
    residual_ptr,
    residual_batch,
    residual_token,
    y_ptr,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    GATE_FIRST: tl.constexpr,
):
    """What follows the product, on sums in fp32, and the store."""
    y = _biased(y, bias_ptr, column, outputs)
    if GATED:
        other = _biased(other, second_bias_ptr, column, outputs)
        y = activate(y, ACTIVATION) * other if GATE_FIRST else y * activate(other, ACTIVATION)
    elif ACTIVATION is not None:
        y = activate(y, ACTIVATION)
    inside = (row < rows)[:, None] & (column < outputs)[None, :]
    batch, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
    if gate_ptr is not None:
        y *= load_rows(gate_ptr, batch, token, gate_batch, gate_token, column, inside)
    if residual_ptr is not None:
        y += load_rows(residual_ptr, batch, token, residual_batch, residual_token, column, inside)
    offset = row.to(tl.int64)[:, None] * outputs + column[None, :]
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def linear_kernel(
    x,
    weight,
    second,
    bias_ptr,
    second_bias_ptr,
    gate_ptr,
    residual_ptr,
    y_ptr,
    rows,
    outputs,
    inputs,
    tokens,
    x_batch,
    x_token,
    weight_row,
    gate_batch,
    gate_token,
    residual_batch,
    residual_token,
    ACTIVATION: tl.constexpr,
    GATE_FIRST: tl.constexpr,
    WIDENED: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    TMA: tl.constexpr,
    PERSISTENT: tl.constexpr,
    TENSOR_FLOAT: tl.constexpr,
):
    precision: tl.constexpr = "tf32x3" if TENSOR_FLOAT else "ieee"
    tall, wide = tl.cdiv(rows, ROWS), tl.cdiv(outputs, OUTPUTS)
    k = tl.arange(0, INPUTS)[None, :]
    for tile in tl.range(tl.program_id(0), tall * wide, tl.num_programs(0), flatten=PERSISTENT):
        down, across = _place(tile, tall, wide, GROUP)
        row = down * ROWS + tl.arange(0, ROWS)
        column = across * OUTPUTS + tl.arange(0, OUTPUTS)
        # beyond the last row or column stands the last once more; it is not stored
        real = tl.minimum(row, rows - 1)
        batch, token = (real // tokens).to(tl.int64), (real % tokens).to(tl.int64)
        x_at = (batch * x_batch + token * x_token)[:, None] + k
        weight_at = (tl.minimum(column, outputs - 1).to(tl.int64) * weight_row)[:, None] + k

        y = tl.zeros((ROWS, OUTPUTS), tl.float32)
        other = tl.zeros((ROWS, OUTPUTS), tl.float32)
        for first in range(0, inputs, INPUTS):
            within = k < inputs - first
            a = _fetch(x, x_at, down * ROWS, first, within, EVEN, WIDENED, TMA)
            b = _fetch(weight, weight_at, across * OUTPUTS, first, within, EVEN, WIDENED, TMA)
            y = tl.dot(a, b.T, y, input_precision=precision)
            if second is not None:
                b = _fetch(second, weight_at, across * OUTPUTS, first, within, EVEN, WIDENED, TMA)
                other = tl.dot(a, b.T, other, input_precision=precision)

        part: tl.constexpr = OUTPUTS // PARTS
        for index in tl.static_range(PARTS):
            _finish(
                _part(y, index, PARTS),
                _part(other, index, PARTS) if second is not None else None,
                row,
                across * OUTPUTS + index * part + tl.arange(0, part),
                rows,
                outputs,
                tokens,
                bias_ptr,
                second_bias_ptr,
                gate_ptr,
                gate_batch,
                gate_token,
                residual_ptr,
                residual_batch,
                residual_token,
                y_ptr,
                ACTIVATION,
                second is not None,
                GATE_FIRST,
            )
