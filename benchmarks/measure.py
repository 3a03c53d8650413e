"""Correct first, then timed: errors, limits, FLOPs, and timings taken in turns."""

from __future__ import annotations

import gc
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from .samples import STOLEN, Sample, there_and_back

if TYPE_CHECKING:
    import torch

    Call: TypeAlias = Callable[[], torch.Tensor]
    Clock: TypeAlias = Callable[[Call], tuple[torch.Tensor, float]]

EXACT_ERROR = 1e-5
"""What an exact rung may differ from stock in fp32: relative L2 error per forward."""
EXACT_RATIO = 1.25
"""In 16 bit: times stock's own distance from the fp32 truth."""
_ATTEMPTS = 4
"""How often a sample is taken until the host leaves the processors alone."""
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def _accept(output: torch.Tensor) -> None:
    """Any output will do."""


def _silent(name: str) -> None:
    """Nobody watches."""


def synchronise() -> None:
    """Wait for the accelerator, where there is one."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def timed(call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    """The output of one call and its seconds, the device idle at both ends."""
    synchronise()
    start = time.perf_counter()
    output = call()
    synchronise()
    return output, time.perf_counter() - start


@dataclass(frozen=True)
class Trial:
    """A call to time, and what belongs around it.

    `around` is entered before this trial's samples and left when another's turn comes; one untimed
    call follows its entry, so that a sample sees the process settled. `check` gets each output,
    outside the time.
    """

    call: Callable[[], torch.Tensor]
    around: Callable[[], AbstractContextManager[object]] | None = None
    check: Callable[[torch.Tensor], None] = _accept
    clock: Clock = timed


def relative_error(output: torch.Tensor, truth: torch.Tensor) -> float:
    """The L2 norm of the difference over the truth's; infinite for NaN or another shape."""
    import torch

    if output.shape != truth.shape:
        return math.inf
    where = truth.device if truth.device.type == "cuda" else torch.device("cpu")
    wanted = truth.detach().to(where).double()
    distance = torch.linalg.vector_norm(output.detach().to(where).double() - wanted)
    error = float(distance / torch.linalg.vector_norm(wanted))
    return error if math.isfinite(error) else math.inf


def error_limit(effect: str, dtype: str, forwards: int, stock_16bit: float | None) -> float | None:
    """The error that a rung of this effect may have; None where it is only reported.

    Over a loop of `forwards` calls fp32 rounding is given room in proportion. In 16 bit the limit
    hangs on stock's own error there; without that measurement there is none.
    """
    if effect != "exact":
        return None
    if dtype == "float32":
        return EXACT_ERROR * forwards
    return None if stock_16bit is None else EXACT_RATIO * stock_16bit


def count_flops(call: Callable[[], torch.Tensor]) -> float:
    """Floating point operations of one call: matrix products, convolutions and attention.

    Attention is computed from plain products while counting, which torch's counter always knows.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return float(counter.get_total_flops())


def interleave(
    trials: Mapping[str, Trial],
    rounds: int,
    tick: Callable[[str], None] = _silent,
    canary: Callable[[], float] | None = None,
) -> dict[str, list[Sample]]:
    """The samples of each trial, one a round, every second round backwards (A B B A).

    `canary` times something fixed, in seconds, whenever another trial's turn comes.
    """
    taken: dict[str, list[Sample]] = {name: [] for name in trials}
    for name, turns in groupby(there_and_back(list(trials), rounds)):
        trial = trials[name]
        reading = canary() if canary else None
        with trial.around() if trial.around else nullcontext():
            if trial.around:
                trial.call()
            for _ in turns:
                tick(name)
                taken[name].append(replace(_sample(trial), canary=reading))
    return taken


def undisturbed(attempt: Callable[[], float]) -> Sample:
    """A sample during which a virtual machine's host took at most `STOLEN` of the processors.

    A disturbed one is taken again; after `_ATTEMPTS` the least disturbed stands.
    """
    tries: list[Sample] = []
    for _ in range(_ATTEMPTS):
        start, before = time.perf_counter(), stolen_seconds()
        seconds = attempt()
        capacity = (time.perf_counter() - start) * (os.cpu_count() or 1)
        tries.append(Sample(seconds, (stolen_seconds() - before) / capacity))
        if tries[-1].stolen <= STOLEN:
            break
    return min(tries, key=lambda each: each.stolen)


def stolen_seconds() -> float:
    """Processor seconds since the start that the host gave to others (Linux's steal; else 0)."""
    try:
        total = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(total[8]) / os.sysconf("SC_CLK_TCK")


def _sample(trial: Trial) -> Sample:
    def attempt() -> float:
        with _no_collection():
            output, seconds = trial.clock(trial.call)
        trial.check(output)
        return seconds

    return undisturbed(attempt)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage before a sample rather than in it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def cold_cache() -> Iterator[None]:
    """An empty folder for what torch compiles, so that compile times are those of a first run."""
    before = os.environ.get(_CACHE)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[_CACHE] = folder
        try:
            yield
        finally:
            os.environ.pop(_CACHE)
            if before is not None:
                os.environ[_CACHE] = before
