"""What the host does in one step of a denoising loop: Python, and torch's way to each kernel.

SDXL's UNet in its full depth, so narrow that its kernels compute next to nothing, on one thread of
a CPU: what is left is what a fast device would wait for. A step scales the latents, calls the UNet
with guidance's batch of 2, combines what it says, and makes the scheduler's step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sdaccel

from .denoisers import DENOISERS
from .families import Family, Size
from .measure import Trial, error_limit, interleave, relative_error
from .rows import Row
from .rungs import BASELINE, state_of
from .samples import Sample, worst_theft

if TYPE_CHECKING:
    import torch

    from .measure import Call

NAME = "host-time"
PLANS = (
    "none+no_ops+schedulers",
    "none+no_ops+schedulers+hoist",
    "none+flatten",
    "none+no_ops+schedulers+flatten",
    "none+no_ops+schedulers+hoist+flatten",
    "none+no_ops+attention+fuse+schedulers+flatten",
)
"""Without a graph and without a compiler, which leave out more."""
STEPS = 10
SIZE = Size(8, 8, 1, 5)
NARROW: Mapping[str, Any] = {
    "sample_size": SIZE.height,
    "block_out_channels": (16, 32, 32),
    "attention_head_dim": (1, 2, 2),
    "norm_num_groups": 8,
    "cross_attention_dim": SIZE.text,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": SIZE.pooled + 6 * 8,
}
_GUIDANCE = 5.0


def measure_host_time(
    plans: Sequence[str], rounds: int, tell: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """A row for stock and one for each plan, seconds a step, all taken in turns."""
    family = sdxl()
    pipes = {name: pipeline(family) for name in (BASELINE, *plans)}
    rows = [_row(name) for name in pipes]
    with one_thread():
        wanted = generation(pipes[BASELINE], family)()
        for row in rows[1:]:
            sdaccel.accelerate(pipes[row.rung], row.rung)
            draw = generation(pipes[row.rung], family)
            row.error = max(relative_error(draw(), wanted) for _ in range(2))
            _judge(row, pipes[row.rung])
        right = {row.rung: generation(pipes[row.rung], family) for row in rows if _is_right(row)}
        trials = {name: Trial(call, clock=_per_step) for name, call in right.items()}
        _fill(rows, interleave(trials, rounds, tell))
    return rows


def sdxl() -> Family:
    """SDXL's UNet with all its blocks, and hardly any channels."""
    family, _ = DENOISERS["sdxl-unet"].chosen(quick=False)
    return replace(family, config={**family.config, **NARROW})


def pipeline(family: Family) -> Any:
    """The UNet and SDXL's scheduler."""
    from diffusers import EulerDiscreteScheduler

    from .family_pipeline import FamilyPipeline

    return FamilyPipeline(family.build(), None, EulerDiscreteScheduler())


def generation(pipe: Any, family: Family) -> Call:
    """A denoising loop from the same latents, as SDXL's pipeline runs it; (1, C, H, W)."""
    import torch

    given = family.draw(SIZE, 0, torch.float32)
    latents = given.pop("sample")[:1]
    del given["timestep"]

    def call() -> torch.Tensor:
        scheduler = pipe.scheduler
        sample: torch.Tensor = latents
        scheduler.set_timesteps(STEPS)
        with torch.no_grad():
            for t in scheduler.timesteps:
                both = scheduler.scale_model_input(torch.cat([sample] * 2), t)
                noise = pipe.denoiser(both, t, **given, return_dict=False)[0]
                without, with_text = noise.chunk(2)
                noise = without + _GUIDANCE * (with_text - without)
                sample = scheduler.step(noise, t, sample, return_dict=False)[0]
        return sample

    return call


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch's kernels, as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _per_step(call: Call) -> tuple[torch.Tensor, float]:
    """Of the processor's time: what others take of a shared machine doesn't count."""
    start = time.thread_time()
    output = call()
    return output, (time.thread_time() - start) / STEPS


def _row(name: str) -> Row:
    row = Row(NAME, name, "stock" if name == BASELINE else "plan", "exact", "step")
    row.settings = {"denoiser": "SDXL's UNet, narrow", "steps": STEPS, "threads": 1}
    return row


def _judge(row: Row, pipe: Any) -> None:
    """What a plan does, and whether its latents are stock's."""
    plan = sdaccel.Plan.of(row.rung)
    row.effect = plan.effect.value
    row.passes = {each.name: state_of(each) for each in sdaccel.report(pipe).passes}
    row.error_limit = error_limit(row.effect, row.dtype, STEPS, None)
    if row.error is None or (row.error_limit is not None and row.error > row.error_limit):
        row.status, row.reason = "wrong", "Its latents are not stock's."


def _is_right(row: Row) -> bool:
    return row.status == "ok"


def _fill(rows: Sequence[Row], taken: Mapping[str, list[Sample]]) -> None:
    stock = taken[BASELINE]
    for row in filter(_is_right, rows):
        row.seconds = [each.seconds for each in taken[row.rung]]
        row.stolen = worst_theft([*taken[row.rung], *stock])
        if row.rung != BASELINE:
            row.baseline_seconds = [each.seconds for each in stock]


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command takes."""
    made = argparse.ArgumentParser(
        prog="python -m sdaccel.benchmarks host-time",
        description="Time what the host does in a step, stock and accelerated in turns.",
    )
    made.add_argument("plans", nargs="*", default=PLANS, metavar="PLAN", help=", ".join(PLANS))
    made.add_argument("--repeats", type=int, default=12, metavar="N", help="samples a plan (12)")
    made.add_argument("--output", type=Path, default=Path("benchmarks/results"), metavar="FOLDER")
    options = made.parse_args(arguments)
    options.quick = False
    return options
