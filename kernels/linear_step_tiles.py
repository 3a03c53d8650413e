"""The Triton kernel of `linear_step`: one pass over memory, whatever a row of the table says."""

from __future__ import annotations

from .language import tl, triton


@triton.jit
def _load(pointer, offset, inside):
    return tl.load(pointer + offset, inside, 0.0).to(tl.float32)


@triton.jit
def _spread(scalar, offset):
    # whole numbers of the mask's shape: the interpreter takes no mask from a scalar or a fraction
    return tl.full(offset.shape, 0, tl.int64) + scalar.to(tl.int64)


@triton.jit
def _load_slot(history_ptr, row, slot: tl.constexpr, SLOTS: tl.constexpr, offset, inside, elements):
    if slot < SLOTS:
        column = row + 4 + slot
        used = tl.abs(tl.load(column)) + tl.abs(tl.load(column + 8))
        used += tl.abs(tl.load(column + 16)) + tl.abs(tl.load(column + 24))
        used = _spread(tl.ceil(tl.minimum(used, 1.0)), offset)
        values = _load(history_ptr + slot * elements, offset, inside & (used > 0))
    else:
        values = 0.0
    return values


@triton.jit
def _weighted(weights, sample, prediction, noise, clipped, h0, h1, h2, h3):
    found = tl.load(weights) * sample + tl.load(weights + 1) * prediction
    found += tl.load(weights + 2) * noise + tl.load(weights + 3) * clipped
    found += tl.load(weights + 4) * h0 + tl.load(weights + 5) * h1
    found += tl.load(weights + 6) * h2 + tl.load(weights + 7) * h3
    return found


@triton.jit
def linear_step_kernel(
    sample_ptr,
    prediction_ptr,
    noise_ptr,
    history_ptr,
    table_ptr,
    counter_ptr,
    unguided_ptr,
    y_ptr,
    elements,
    guidance_scale,
    SLOTS: tl.constexpr,
    CLIPPED: tl.constexpr,
    ROW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    step = tl.load(counter_ptr)
    row = table_ptr + step * ROW
    elements = tl.cast(elements, tl.int64)
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < elements

    sample = _load(sample_ptr, offset, inside)
    prediction = _load(prediction_ptr, offset, inside)
    if unguided_ptr is not None:
        unguided = _load(unguided_ptr, offset, inside)
        prediction = unguided + guidance_scale * (prediction - unguided)
    noise = 0.0
    if noise_ptr is not None:
        noise = _load(noise_ptr, offset, inside)
    h0 = _load_slot(history_ptr, row, 0, SLOTS, offset, inside, elements)
    h1 = _load_slot(history_ptr, row, 1, SLOTS, offset, inside, elements)
    h2 = _load_slot(history_ptr, row, 2, SLOTS, offset, inside, elements)
    h3 = _load_slot(history_ptr, row, 3, SLOTS, offset, inside, elements)
    clipped = 0.0
    if CLIPPED:
        clipped = _weighted(row + 24, sample, prediction, noise, 0.0, h0, h1, h2, h3)
        low, high = tl.load(row + 34), tl.load(row + 35)
        within = tl.where(clipped < low, low, tl.where(clipped > high, high, clipped))
        clipped = within  # a NaN compares as neither, and stays

    y = _weighted(row, sample, prediction, noise, clipped, h0, h1, h2, h3)
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), inside)
    if SLOTS > 0:
        first, second = _spread(tl.load(row + 32), offset), _spread(tl.load(row + 33), offset)
        kept = _weighted(row + 8, sample, prediction, noise, clipped, h0, h1, h2, h3)
        also = _weighted(row + 16, sample, prediction, noise, clipped, h0, h1, h2, h3)
        kept = kept.to(history_ptr.dtype.element_ty)
        also = also.to(history_ptr.dtype.element_ty)
        tl.store(history_ptr + first * elements + offset, kept, inside & (first >= 0))
        tl.store(history_ptr + second * elements + offset, also, inside & (second >= 0))

    tl.debug_barrier()  # no warp may still have to read the step when the last program advances it
    finished = tl.atomic_add(counter_ptr + 1, 1)
    if finished == tl.num_programs(0) - 1:
        tl.store(counter_ptr + 1, 0)
        tl.store(counter_ptr, step + 1)
