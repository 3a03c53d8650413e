"""Rows of `sdaccel compare`: how far one plan's pictures are from another's, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from . import provenance
from .rows import Results, Row


@dataclass
class QualityRow(Row):
    """One plan beside another, over the same prompts and noise; nothing is timed.

    `rung` is the plan that was judged, `against` the plan it was held against, `measured` each
    metric's summary, `skipped` why others were not measured, `gate` the verdict.
    """

    against: str = "stock"
    measured: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)


@dataclass
class QualityResults(Results):
    """One comparison."""

    ROW: ClassVar[type[Row]] = QualityRow


def write(row: QualityRow, folder: Path) -> Path:
    """Write a row into this machine's folder, with the command that gave it; returns the file."""
    now, machine = provenance.now(), provenance.machine()
    results = QualityResults(
        workload=row.workload,
        date=now.isoformat(timespec="seconds"),
        command=provenance.command("sdaccel.cli"),
        machine=machine,
        versions=provenance.versions(),
        commit=provenance.commit(),
        rows=[row],
    )
    path = folder / str(machine["slug"]) / f"{now:%Y-%m-%d-%H%M%S}-{row.workload}.json"
    results.write(path)
    return path
