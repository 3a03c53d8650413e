"""What sdaccel itself costs: importing it, accelerating and restoring a pipe, compilation apart."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import sdaccel

from .errors import BenchmarkError
from .measure import undisturbed
from .memory import peak_memory, reset_peak
from .rows import Row
from .samples import Sample, worst_theft
from .workloads import Workload, workload

NAME = "overheads"
IMPORT_TARGET = 0.3
ACCELERATE_TARGET = 1.0

_IMPORT = """
import sys, time
start = time.perf_counter()
import sdaccel
seconds = time.perf_counter() - start
import json
print(json.dumps({"seconds": seconds, "torch": "torch" in sys.modules}))
"""


def measure_overheads(quick: bool, rounds: int, tell: Callable[[str], object] = str) -> list[Row]:
    """Rows for `import sdaccel`, and for accelerate and restore on Stable Diffusion 1.5."""
    tell("import sdaccel, in fresh processes")
    rows = [import_row(rounds, quick)]
    chosen = workload("sd15-unet", quick)
    tell(f"building {chosen.label}")
    pipe = chosen.built()
    for plan in ("eager", "lossless"):
        tell(f"accelerate and restore, plan {plan}")
        rows.extend(accelerate_rows(pipe, chosen, plan, rounds))
    return rows


def import_row(rounds: int, quick: bool = False) -> Row:
    """Seconds of `import sdaccel` in a fresh interpreter, and whether it imported torch."""
    row = _row("import sdaccel", IMPORT_TARGET, quick)
    found: dict[str, Any] = {}

    def attempt() -> float:
        done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchmarkError(f"`import sdaccel` failed: {done.stderr.strip().splitlines()[-1]}")
        found.update(json.loads(done.stdout))
        return float(found["seconds"])

    _fill(row, [undisturbed(attempt) for _ in range(rounds)])
    if found["torch"]:
        row.status, row.reason = "wrong", "It imports torch, which belongs to the first use."
    return row


def accelerate_rows(pipe: Any, chosen: Workload, plan: str, rounds: int) -> list[Row]:
    """Seconds of accelerate, without what passes report as compilation, and of restore."""
    there = _row(f"accelerate, plan {plan}", ACCELERATE_TARGET, chosen.quick)
    back = _row(f"restore, plan {plan}", ACCELERATE_TARGET, chosen.quick)
    reset = reset_peak()

    def accelerate() -> float:
        sdaccel.restore(pipe)
        start = time.perf_counter()
        sdaccel.accelerate(pipe, plan)
        seconds = time.perf_counter() - start
        records = sdaccel.report(pipe).passes
        there.passes = {record.name: record.state for record in records}
        return seconds - sum(record.seconds["compile"] for record in records)

    def restore() -> float:
        sdaccel.accelerate(pipe, plan)
        start = time.perf_counter()
        sdaccel.restore(pipe)
        return time.perf_counter() - start

    for row, attempt in ((there, accelerate), (back, restore)):
        _fill(row, [undisturbed(attempt) for _ in range(rounds)])
    there.peak_memory = back.peak_memory = peak_memory() if reset else None
    for row in (there, back):
        row.settings = {"pipeline": f"Stable Diffusion 1.5, {chosen.label}"}
    return [there, back]


def _fill(row: Row, taken: list[Sample]) -> None:
    row.seconds, row.stolen = [each.seconds for each in taken], worst_theft(taken)


def _row(name: str, target: float, quick: bool) -> Row:
    return Row(NAME, name, "overhead", "exact", "call", quick, target_seconds=target)
