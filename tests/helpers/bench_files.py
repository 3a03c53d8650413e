"""Rows and result files for the tests of what reads them: of no machine, of no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdaccel.benchmarks.reader import Run, read
from sdaccel.benchmarks.rows import Results, Row

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "benchmarks" / "results"

STEADY = (1.0, 1.01, 0.99, 1.0, 1.005, 0.995)


def a_row(rung: str = "lossless", times: float = 2.0, **more: Any) -> Row:
    """A rung that is so many times as fast as stock, which takes two seconds."""
    values: dict[str, Any] = {
        "workload": "tiny-unet",
        "kind": "plan",
        "effect": "exact",
        "unit": "forward",
        "error": 2e-7,
        "error_limit": 1e-5,
        "seconds": [2.0 / times * each for each in STEADY],
        "baseline_seconds": [2.0 * each for each in reversed(STEADY)],
        "setup_seconds": 3.0,
        "calls_per_picture": 10,
        "flops": 5e9,
        "matmul_ceiling": 1e10,
        "copy_ceiling": 1e9,
        "peak_memory": 2**30,
        "settings": {"steps": 2},
    }
    return Row(rung=rung, **{**values, **more})


def stock(**more: Any) -> Row:
    """The row that others are timed against."""
    values = {"kind": "stock", "baseline_seconds": [], "error": 0.0, "setup_seconds": None}
    return a_row("stock-fp32", 1.0, **{**values, **more})


def machine(slug: str = "a-cpu-2-cores", **more: Any) -> dict[str, Any]:
    """What a run says of its machine."""
    values = {
        "kind": "cpu",
        "name": slug.removesuffix("-2-cores").replace("-", " ").title(),
        "slug": slug,
        "cores": 2,
        "threads": 2,
        "matmul_ceiling": 1e11,
        "copy_ceiling": 1e10,
    }
    return {**values, **more}


def written(
    folder: Path, *rows: Row, slug: str = "a-cpu-2-cores", date: str = "2026-01-01", **more: Any
) -> Path:
    """A result file of these rows, in the machine's folder below `folder`."""
    workload = rows[0].workload if rows else "tiny-unet"
    values: dict[str, Any] = {
        "workload": workload,
        "date": f"{date}T10:00:00+00:00",
        "command": f"python -m sdaccel.benchmarks --workload {workload}",
        "machine": machine(slug),
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "commit": "abc",
        "rows": list(rows),
    }
    path = folder / slug / f"{date}-{workload}.json"
    Results(**{**values, **more}).write(path)
    return path


def run_of(folder: Path, *rows: Row, **more: Any) -> Run:
    """The same, read again."""
    return read(written(folder, *rows, **more))
