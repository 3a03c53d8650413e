"""What moved between two sets of results, for a terminal and in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..benchmarks import diff

if TYPE_CHECKING:
    from ..benchmarks.diff import Change, Difference

_QUIET = (diff.SAME, diff.MISSING, diff.ADDED)


def shown(found: Sequence[Difference]) -> list[Any]:
    """A table for each machine of what moved, and a line that counts the rest."""
    from rich.table import Table

    things: list[Any] = []
    for each in found:
        moved = [change for change in each.changes if change.verdict not in _QUIET]
        moved.sort(key=lambda change: not change.regressed)
        if moved:
            grid = Table(title=each.machine, title_justify="left")
            for column in ("row", "", "now", "95% interval", "of", "note"):
                grid.add_column(column, overflow="fold")
            for change in moved:
                grid.add_row(*_cells(change), style=_style(change))
            things.append(grid)
        else:
            things.append(f"{each.machine}: nothing moved beyond noise")
        counts = Counter(change.verdict for change in each.changes if change.verdict in _QUIET)
        if counts:
            things.append(", ".join(f"{verdict}: {count}" for verdict, count in counts.items()))
        things.extend(each.doubts)
    return things


def sentence(worse: Sequence[Change]) -> str:
    """How many rows got worse, and the worst of them."""
    broken = [change for change in worse if change.moved is None]
    if broken:
        first = f"{broken[0].name}: {broken[0].note}"
    else:
        slowest = min(worse, key=lambda change: change.moved.factor if change.moved else 1.0)
        first = f"{slowest.name} is {_factor(slowest)} times as fast"
    rows = "1 row" if len(worse) == 1 else f"{len(worse)} rows"
    return f"{rows} got worse beyond noise; {first}."


def _cells(change: Change) -> tuple[str, ...]:
    moved = change.moved
    interval = "" if moved is None else f"{moved.low:.3f} to {moved.high:.3f}"
    of = "" if moved is None else ("vs stock" if change.of_speedup else "seconds")
    now = "" if moved is None else f"{_factor(change)}x"
    return change.name, change.verdict, now, interval, of, change.note


def _factor(change: Change) -> str:
    return "" if change.moved is None else f"{change.moved.factor:.3f}"


def _style(change: Change) -> str | None:
    if change.regressed:
        return "red"
    return "green" if change.verdict in (diff.FASTER, diff.MENDED) else None
