"""One step of a sampler as a weighted sum, its weights read from a table on the device.

    clipped = min(max(sum_k w[3, k] x_k, low), high)      where the step clips
    y       = sum_k w[0, k] x_k                           the next sample
    h[s_j]  = sum_k w[j, k] x_k       j = 1, 2            what later steps need

The x_k are `COLUMNS` in order: sample, prediction, noise, clipped, and up to four rows of the
history. Sample, prediction and noise share one shape; history (S, that shape), S <= 4, is written
in place. The table is (steps, ROW) in fp32: 8 weights each for y, h[s_1], h[s_2] and clipped; then
s_1, s_2 (-1: nothing is written), low, high. The counter is two int32: the step, which the last
program to finish advances, and how many programs have finished. So one launch is one step, the next
launch is the next, and a captured graph of it can be replayed from step to step.

Memory: sample, prediction, noise and each slot that has a weight are read once, y and what is kept
are written once. In 16 bit these are 6 bytes an element for DDIM and Euler and 16 for UniPC of
order 2, where stock's kernels read and write 28, 70 and 114 (Euler with its scale_model_input; from
a dispatch trace of diffusers 0.42). 2 FLOPs a weight. Arithmetic is fp32, rounded once.

Source: the update rules of Song et al., "Denoising Diffusion Implicit Models" (2021), Lu et al.,
"DPM-Solver++" (2022), Zhao et al., "UniPC" (2023), all linear in what they add up.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..errors import ArgumentError
from .arguments import FLOATS, check_choice, check_device, check_float, check_shape
from .cost import Cost, size
from .language import tl, triton
from .operator import Config, Operator, launch

COLUMNS = ("sample", "prediction", "noise", "clipped", "h0", "h1", "h2", "h3")
WIDTH = len(COLUMNS)
FIRST_SLOT = COLUMNS.index("h0")
SLOTS = WIDTH - FIRST_SLOT
WRITES = 2
CLIP = (1 + WRITES) * WIDTH
TARGETS = CLIP + WIDTH
BOUNDS = TARGETS + WRITES
ROW = BOUNDS + 2
"""Where a row of the table has what: see above."""


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
def _linear_step_kernel(
    sample_ptr,
    prediction_ptr,
    noise_ptr,
    history_ptr,
    table_ptr,
    counter_ptr,
    y_ptr,
    elements,
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


def _run(
    sample: torch.Tensor,
    prediction: torch.Tensor,
    noise: torch.Tensor | None,
    history: torch.Tensor | None,
    table: torch.Tensor,
    counter: torch.Tensor,
    dtype: torch.dtype,
    clips: bool,
) -> torch.Tensor:
    y = torch.empty_like(sample, dtype=dtype)
    if not y.numel():
        return y
    arguments = {
        "sample_ptr": sample,
        "prediction_ptr": prediction,
        "noise_ptr": noise,
        "history_ptr": history,
        "table_ptr": table,
        "counter_ptr": counter,
        "y_ptr": y,
        "elements": sample.numel(),
    }
    slots = 0 if history is None else history.shape[0]
    constants = {"SLOTS": slots, "CLIPPED": clips, "ROW": ROW}
    config = Config({"BLOCK": 1024})
    grid = (triton.cdiv(sample.numel(), config.blocks["BLOCK"]),)
    launch(_linear_step_kernel, grid, arguments, constants, config)
    return y


def linear_step(
    sample: torch.Tensor,
    prediction: torch.Tensor,
    noise: torch.Tensor | None,
    history: torch.Tensor | None,
    table: torch.Tensor,
    counter: torch.Tensor,
    dtype: torch.dtype,
    clips: bool = False,
) -> torch.Tensor:
    """The next sample in `dtype`; history and counter are advanced in place. Shapes as above.

    Tensors whose memory lies in different orders are copied first.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    check_float(sample=sample, prediction=prediction, noise=noise, history=history)
    check_device(
        sample=sample,
        prediction=prediction,
        noise=noise,
        history=history,
        table=table,
        counter=counter,
    )
    check_shape(sample.shape, prediction=prediction, noise=noise)
    check_shape((-1, ROW), table=table)
    check_shape((2,), counter=counter)
    check_choice("dtype", dtype, FLOATS)
    if table.dtype != torch.float32 or counter.dtype != torch.int32:
        raise ArgumentError("the table is fp32 and the counter int32")
    if history is not None:
        check_shape((-1, *sample.shape), history=history)
        check_choice("the history's length", history.shape[0], range(1, SLOTS + 1))
        if not history.is_contiguous():
            raise ArgumentError("history is contiguous: it is written in place")
    given = [each for each in (sample, prediction, noise) if each is not None]
    if not _lie_alike(given, history):
        sample, prediction = sample.contiguous(), prediction.contiguous()
        noise = None if noise is None else noise.contiguous()
    return _OP(sample, prediction, noise, history, table, counter, dtype, clips)


def _lie_alike(tensors: list[torch.Tensor], history: torch.Tensor | None) -> bool:
    """Whether one walk through memory meets the same place of each tensor."""
    if all(each.is_contiguous() for each in tensors):
        return True
    first = tensors[0]
    dense = first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last)
    return history is None and dense and all(each.stride() == first.stride() for each in tensors)


def linear_step_reference(
    sample: torch.Tensor,
    prediction: torch.Tensor,
    noise: torch.Tensor | None,
    history: torch.Tensor | None,
    table: torch.Tensor,
    counter: torch.Tensor,
    dtype: torch.dtype,
    clips: bool,
) -> torch.Tensor:
    """The same in plain torch: in fp32, rounded once, with no value read by the host."""
    row = table.index_select(0, counter[:1].long())[0]
    slots = [] if history is None else list(history.float().unbind())
    terms = dict(zip(COLUMNS[FIRST_SLOT:], slots, strict=False))
    terms |= {"sample": sample.float(), "prediction": prediction.float()}
    if noise is not None:
        terms["noise"] = noise.float()
    if clips:
        terms["clipped"] = _sum(row[CLIP:], terms).clamp(row[BOUNDS], row[BOUNDS + 1])
    y = _sum(row, terms).to(dtype)
    if history is not None:
        kept = [_sum(row[(1 + place) * WIDTH :], terms) for place in range(WRITES)]
        for slot in range(history.shape[0]):
            for place, values in enumerate(kept):
                chosen = row[TARGETS + place] == slot
                history[slot] = torch.where(chosen, values.to(history.dtype), history[slot])
    counter[:1] += 1
    return y


def _sum(weights: torch.Tensor, terms: dict[str, torch.Tensor]) -> torch.Tensor:
    """The terms times their weights; a weight of 0 leaves out what is not finite, too."""
    weighted = [
        torch.where(weights[COLUMNS.index(name)] != 0, weights[COLUMNS.index(name)] * term, 0.0)
        for name, term in terms.items()
    ]
    return torch.stack(weighted).sum(0)


def linear_step_cost(
    sample: torch.Tensor,
    prediction: torch.Tensor,
    noise: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    reads: int = 0,
    writes: int = 0,
) -> Cost:
    """What a step that reads and writes so many rows of the history costs; y is as the sample."""
    row = 0 if history is None else size(history[:1])
    terms = 2 + (noise is not None) + reads
    found = size(sample, prediction, noise, sample) + (reads + writes) * row
    return Cost(found, 2 * terms * (1 + writes) * sample.numel())


def ahead_of_time() -> Iterator[str]:
    """Launch the kernel as real pipelines do, for compiling without a GPU; see `ahead`."""
    for name, shape, dtype, slots, noisy, clips in (
        ("SD1.5, DDIM", (1, 4, 64, 64), torch.float16, 0, False, False),
        ("SDXL, Euler ancestral", (1, 4, 128, 128), torch.bfloat16, 0, True, False),
        ("DDPM, clipped", (4, 3, 256, 256), torch.float32, 0, True, True),
        ("SDXL, DPM++ 2M SDE", (1, 4, 128, 128), torch.float16, 2, True, False),
        ("Wan-14B, UniPC", (1, 16, 21, 90, 160), torch.float32, 3, False, False),
        ("UniPC of order 3", (1, 4, 128, 128), torch.bfloat16, 4, False, False),
    ):
        sample = torch.empty(shape, dtype=dtype, device="meta")
        history = sample.new_empty((slots, *shape)) if slots else None
        table = sample.new_empty((50, ROW), dtype=torch.float32)
        counter = sample.new_empty(2, dtype=torch.int32)
        noise = torch.empty_like(sample) if noisy else None
        _run(sample, torch.empty_like(sample), noise, history, table, counter, dtype, clips)
        yield name


_OP = Operator(
    "linear_step",
    "(Tensor sample, Tensor prediction, Tensor? noise, Tensor(a!)? history, Tensor table, "
    "Tensor(b!) counter, ScalarType dtype, bool clips) -> Tensor",
    launch=_run,
    reference=linear_step_reference,
    fake=lambda sample, *rest: torch.empty_like(sample, dtype=rest[-2]),
)
