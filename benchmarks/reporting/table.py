"""The page's sortable tables: each cell with its text, what it sorts by, and how it is set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..kernel_rows import KernelRow, verdict_text
from ..prices import cost
from ..rows import Row
from ..selection import Entry
from . import wording


@dataclass(frozen=True)
class Cell:
    """One figure or word; `order` is what a click on its column sorts by, numbers as numbers."""

    text: str
    order: str | float | None = None
    number: bool = False


@dataclass(frozen=True)
class Line:
    """One row of a table; `role` and `noisy` colour it, `trouble` says why it has no figures."""

    cells: tuple[Cell, ...]
    role: str
    noisy: bool
    trouble: str


@dataclass(frozen=True)
class Table:
    """Headings, whether each is over numbers, and the lines."""

    headings: tuple[str, ...]
    numbers: tuple[bool, ...]
    lines: tuple[Line, ...]


Column = Callable[[Entry], Cell]


def rungs_table(entries: Sequence[Entry], per_hour: float | None) -> Table:
    """Every rung; columns that are empty for all rows are left out, the cost where a price is."""
    columns: dict[str, Column] = {
        "workload": lambda each: _words(each.row.workload + (" (quick)" if each.row.quick else "")),
        "rung": lambda each: _words(each.row.rung),
        "dtype": lambda each: _words(wording.dtype(each.row)),
        "median": lambda each: _figure(each.row.median, wording.seconds),
        "± IQR": _spread,
        "vs stock": lambda each: _figure(each.row.speedup, wording.factor),
        "95% interval": _interval,
        "error": lambda each: _figure(each.row.error, _error),
        "of matmul": lambda each: _figure(each.row.matmul_share, "{:.0%}".format),
        "set-up": lambda each: _figure(each.row.setup_seconds, wording.seconds),
        "pays after": _pays,
        "memory": lambda each: _figure(each.row.peak_memory, wording.memory),
        "host memory": lambda each: _figure(each.row.host_memory, wording.memory),
        "quality": lambda each: _words(wording.quality(each.row)),
        "effect": lambda each: _words(each.row.effect),
    }
    if per_hour is not None:
        columns["cost"] = lambda each: _cost(each.row, per_hour)
    return _table(entries, columns)


def kernels_table(entries: Sequence[Entry]) -> Table:
    """Every variant of every kernel's case."""
    columns: dict[str, Column] = {
        "op": lambda each: _words(each.row.workload),
        "case": lambda each: _words(f"{each.raw.get('model', '')} {each.raw.get('case', '')}"),
        "variant": lambda each: _words(each.row.rung),
        "dtype": lambda each: _words(wording.dtype(each.row)),
        "median": lambda each: _figure(each.row.median, wording.seconds),
        "± IQR": _spread,
        "vs stock": lambda each: _figure(each.row.speedup, wording.factor),
        "of ceiling": lambda each: _figure(each.raw.get("share"), "{:.0%}".format),
        "error": lambda each: _figure(each.row.error, "{:.1e}".format),
        "target": _targets,
    }
    return _table(entries, columns)


def _table(entries: Sequence[Entry], columns: dict[str, Column]) -> Table:
    filled = {name: [column(each) for each in entries] for name, column in columns.items()}
    used = {name: cells for name, cells in filled.items() if any(cell.text for cell in cells)}
    numbers = tuple(any(cell.number for cell in cells) for cells in used.values())
    lines = tuple(
        Line(
            tuple(cells[index] for cells in used.values()),
            wording.role(each.row),
            bool(each.row.noisy and each.row.seconds),
            wording.trouble(each.row),
        )
        for index, each in enumerate(entries)
    )
    return Table(tuple(used), numbers, lines)


def _words(text: str) -> Cell:
    return Cell(text.strip(), text.strip().lower())


def _figure(value: float | None, write: Callable[[float], str]) -> Cell:
    return Cell("", None, True) if value is None else Cell(write(value), value, True)


def _error(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _spread(entry: Entry) -> Cell:
    row = entry.row
    if not row.median or row.interquartile_range is None:
        return Cell("", None, True)
    share = row.interquartile_range / row.median
    return Cell(f"{share:.0%}{' !' if row.noisy else ''}", share, True)


def _interval(entry: Entry) -> Cell:
    low, high = entry.row.speedup_low, entry.row.speedup_high
    if low is None or high is None:
        return Cell("", None, True)
    return Cell(f"{low:.2f} to {high:.2f}", low, True)


def _pays(entry: Entry) -> Cell:
    row = entry.row
    if row.setup_seconds is None or not (row.seconds and row.baseline_seconds):
        return Cell("", None, True)
    if row.pays_after is None:
        return Cell("never", math.inf, True)
    return Cell(f"{row.pays_after:.3g} pictures", row.pays_after, True)


def _cost(row: Row, per_hour: float) -> Cell:
    found = cost(row, per_hour)
    if found is None:
        return Cell("", None, True)
    amount, bought = found
    return Cell(f"{amount:.3g} for {bought}", amount, True)


def _targets(entry: Entry) -> Cell:
    verdicts = entry.row.verdicts if isinstance(entry.row, KernelRow) else []
    return _words("; ".join(verdict_text(each) for each in verdicts))
