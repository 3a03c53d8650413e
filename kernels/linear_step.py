"""One step of a sampler as a weighted sum, its weights read from a table on the device.

    clipped = min(max(sum_k w[3, k] x_k, low), high)      where the step clips
    y       = sum_k w[0, k] x_k                           the next sample
    h[s_j]  = sum_k w[j, k] x_k       j = 1, 2            what later steps need

    prediction = unguided + guidance_scale (conditional - unguided)      where there is guidance

The x_k are `COLUMNS` in order: sample, prediction, noise, clipped, and up to four rows of the
history. Sample, predictions and noise share one shape; history (S, that shape), S <= 4, is written
in place. The table is (steps, ROW) in fp32: 8 weights each for y, h[s_1], h[s_2] and clipped; then
s_1, s_2 (-1: nothing is written), low, high. The counter is two int32: the step, which the last
program to finish advances, and how many programs have finished. So one launch is one step, the next
launch is the next, and a captured graph of it can be replayed from step to step.

Memory: sample, predictions, noise and each slot that has a weight are read once, y and what is kept
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
from .language import triton
from .linear_step_tiles import linear_step_kernel
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


def _run(
    sample: torch.Tensor,
    prediction: torch.Tensor,
    noise: torch.Tensor | None,
    history: torch.Tensor | None,
    table: torch.Tensor,
    counter: torch.Tensor,
    dtype: torch.dtype,
    clips: bool,
    unguided: torch.Tensor | None = None,
    guidance_scale: float = 1.0,
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
        "unguided_ptr": unguided,
        "y_ptr": y,
        "elements": sample.numel(),
        "guidance_scale": guidance_scale,
    }
    slots = 0 if history is None else history.shape[0]
    constants = {"SLOTS": slots, "CLIPPED": clips, "ROW": ROW}
    config = Config({"BLOCK": 1024})
    grid = (triton.cdiv(sample.numel(), config.blocks["BLOCK"]),)
    launch(linear_step_kernel, grid, arguments, constants, config)
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
    unguided: torch.Tensor | None = None,
    guidance_scale: float = 1.0,
) -> torch.Tensor:
    """The next sample in `dtype`; history and counter are advanced in place. Shapes as above.

    With `unguided`, `prediction` is the conditional one, and guidance combines the two. Tensors
    whose memory lies in different orders are copied first.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    floats = {"sample": sample, "prediction": prediction, "noise": noise, "unguided": unguided}
    check_float(history=history, **floats)
    check_device(history=history, table=table, counter=counter, **floats)
    check_shape(sample.shape, prediction=prediction, noise=noise, unguided=unguided)
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
    if not _lie_alike([each for each in floats.values() if each is not None], history):
        sample, prediction = sample.contiguous(), prediction.contiguous()
        noise, unguided = (
            None if each is None else each.contiguous() for each in (noise, unguided)
        )
    rest = (dtype, clips, unguided, guidance_scale)
    return _OP(sample, prediction, noise, history, table, counter, *rest)


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
    unguided: torch.Tensor | None = None,
    guidance_scale: float = 1.0,
) -> torch.Tensor:
    """The same in plain torch: in fp32, rounded once, with no value read by the host."""
    row = table.index_select(0, counter[:1].long())[0]
    slots = [] if history is None else list(history.float().unbind())
    terms = dict(zip(COLUMNS[FIRST_SLOT:], slots, strict=False))
    terms |= {"sample": sample.float(), "prediction": prediction.float()}
    if unguided is not None:
        base = unguided.float()
        terms["prediction"] = base + guidance_scale * (prediction.float() - base)
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
    unguided: torch.Tensor | None = None,
) -> Cost:
    """What a step that reads and writes so many rows of the history costs; y is as the sample."""
    row = 0 if history is None else size(history[:1])
    terms = 2 + (noise is not None) + reads
    found = size(sample, prediction, noise, unguided, sample) + (reads + writes) * row
    guiding = 3 * (unguided is not None)
    return Cost(found, (2 * terms * (1 + writes) + guiding) * sample.numel())


def ahead_of_time() -> Iterator[str]:
    """Launch the kernel as real pipelines do, for compiling without a GPU; see `ahead`."""
    for name, shape, dtype, slots, noisy, guided in (
        ("SD1.5, DDIM", (1, 4, 64, 64), torch.float16, 0, False, True),
        ("SDXL, Euler ancestral", (1, 4, 128, 128), torch.bfloat16, 0, True, True),
        ("DDPM, clipped", (4, 3, 256, 256), torch.float32, 0, True, False),
        ("SDXL, DPM++ 2M SDE", (1, 4, 128, 128), torch.float16, 2, True, True),
        ("Wan-14B, UniPC", (1, 16, 21, 90, 160), torch.float32, 3, False, False),
        ("UniPC of order 3", (1, 4, 128, 128), torch.bfloat16, 4, False, False),
    ):
        sample = torch.empty(shape, dtype=dtype, device="meta")
        history = sample.new_empty((slots, *shape)) if slots else None
        table = sample.new_empty((50, ROW), dtype=torch.float32)
        counter = sample.new_empty(2, dtype=torch.int32)
        noise = torch.empty_like(sample) if noisy else None
        unguided, clips = torch.empty_like(sample) if guided else None, name.endswith("clipped")
        rest = (table, counter, dtype, clips, unguided, 7.5)
        _run(sample, torch.empty_like(sample), noise, history, *rest)
        yield name


_OP = Operator(
    "linear_step",
    "(Tensor sample, Tensor prediction, Tensor? noise, Tensor(a!)? history, Tensor table, "
    "Tensor(b!) counter, ScalarType dtype, bool clips, Tensor? unguided=None, "
    "float guidance_scale=1.0) -> Tensor",
    launch=_run,
    reference=linear_step_reference,
    fake=lambda sample, *rest: torch.empty_like(sample, dtype=rest[5]),
)
