"""Rows of `sdaccel compare`: how far one plan's pictures are from another's, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from . import provenance
from .rows import Results, Row


@dataclass
class QualityRow(Row):
    """One plan beside another, over the same prompts and noise; nothing is timed.

    `rung` is the plan that was judged, `against` the plan it was held against, `measured` each
    metric's summary, `skipped` why others were not measured, `gate` the verdict. `pictures` names
    two strips beside the file, `first` and `second`, of cells of `width` by `height` pixels, which
    move where clips were compared, and has a caption for each cell.
    """

    against: str = "stock"
    measured: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)


@dataclass
class QualityResults(Results):
    """One comparison."""

    ROW: ClassVar[type[Row]] = QualityRow


def write(
    row: QualityRow, folder: Path, draw: Callable[[Path], dict[str, Any]] | None = None
) -> Path:
    """Write a row into this machine's folder, with the command that gave it; returns the file.

    `draw` writes pictures beside it, given the file's path without its suffix, and returns what
    the row says of them.
    """
    now, machine = provenance.now(), provenance.machine()
    path = folder / str(machine["slug"]) / f"{now:%Y-%m-%d-%H%M%S}-{row.workload}.json"
    if draw is not None:
        row.pictures = draw(path.with_suffix(""))
    results = QualityResults(
        workload=row.workload,
        date=now.isoformat(timespec="seconds"),
        command=provenance.command("sdaccel.cli"),
        machine=machine,
        versions=provenance.versions(),
        commit=provenance.commit(),
        rows=[row],
    )
    results.write(path)
    return path
