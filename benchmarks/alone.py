"""Peak memory of one rung in a process of its own, where nothing else is resident."""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import asdict, dataclass
from subprocess import PIPE
from typing import TYPE_CHECKING

from .errors import BenchmarkError
from .memory import peak_beside, peak_memory, reset_host_peak, reset_peak
from .run_folder import run_beside

if TYPE_CHECKING:
    from .workloads import Workload


@dataclass(frozen=True)
class Memory:
    """Bytes at most, on the device: until the second call was done, and during the third.

    `host` is what was resident on the host during the third; None where the host is the device.
    """

    setup: int | None
    steady: int | None
    host: int | None = None


def measure_alone(workload: Workload, rung_name: str) -> Memory:
    """The memory of a rung, from a fresh process; raises `BenchmarkError` where that fails."""
    name = workload.source or workload.name
    command = [sys.executable, "-m", "sdaccel.benchmarks", "alone", name, rung_name]
    quick = ["--quick"] if workload.quick else []
    done = run_beside([*command, *quick], stdout=PIPE, stderr=PIPE, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BenchmarkError(f"Measuring the memory of {rung_name} alone failed: {lines[-1]}")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def main(workload_name: str, rung_name: str, quick: bool) -> None:
    """The other side of `measure_alone`: run the rung three times, print the memory as JSON."""
    import torch

    from .rungs import IN_FP32, in_16_bit, rung
    from .workloads import workload

    chosen = workload(workload_name, quick)
    narrow = not rung_name.endswith(IN_FP32) and torch.cuda.is_available()
    pipe = in_16_bit(chosen) if narrow else chosen.built()
    with rung(rung_name).open(pipe, chosen) as opened, opened.surroundings():
        call = (opened.workload or chosen).prepare(opened.pipe)
        call()
        call()
        gc.collect()
        setup = peak_memory()
        device_told, host_told = reset_peak(), reset_host_peak()
        call()
        steady = peak_memory() if device_told else None
        host = peak_beside() if host_told else None
    print(json.dumps(asdict(Memory(setup, steady, host))))
