"""What moved beyond noise between two sets of results of the same machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ResultsError
from .reader import Run
from .selection import Entry, machines
from .shifts import Shift, shift

TOLERANCE = 0.02
"""The smallest change that counts: two processes on a quiet machine differ by about as much."""

DRIFT = 0.25
"""By how much the machine's own ceilings may differ before the comparison is doubted."""

FASTER, SLOWER, SAME, UNKNOWN = "faster", "slower", "same", "too few samples"
BROKEN, MENDED = "no longer ok", "ok again"
MISSING, ADDED = "only before", "only after"


@dataclass(frozen=True)
class Change:
    """One row before and after: what became of it, by what factor, and whether that is worse.

    `moved` is of the speed-up over stock, where stock ran in turns with both rows; a machine that
    is slower today then slows both alike. Rows without such samples compare `seconds`.
    """

    name: str
    verdict: str
    moved: Shift | None
    of_speedup: bool
    regressed: bool
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        interval = None if self.moved is None else [self.moved.low, self.moved.high]
        return {
            "row": self.name,
            "verdict": self.verdict,
            "faster_by": None if self.moved is None else self.moved.factor,
            "interval": interval,
            "of": "speed-up over stock" if self.of_speedup else "seconds",
            "regressed": self.regressed,
            "note": self.note,
        }


@dataclass(frozen=True)
class Difference:
    """All rows of one machine, before and after."""

    machine: str
    changes: tuple[Change, ...]
    doubts: tuple[str, ...]

    @property
    def regressions(self) -> list[Change]:
        """What got worse beyond noise."""
        return [change for change in self.changes if change.regressed]


def compare(
    before: Sequence[Run], after: Sequence[Run], tolerance: float = TOLERANCE
) -> list[Difference]:
    """The differences, machine by machine.

    Raises `ResultsError` where both sides have no machine in common, or no row.
    """
    first, second = ({each.name: each for each in machines(runs)} for runs in (before, after))
    shared = [name for name in second if name in first]
    if not shared:
        raise ResultsError(
            f"Rows of different machines are never compared: A has {_listed(first)}, "
            f"B has {_listed(second)}."
        )
    found = []
    for name in shared:
        old, new = ({each.key: each for each in side[name].entries} for side in (first, second))
        keys = [*new, *(key for key in old if key not in new)]
        changes = tuple(change(old.get(key), new.get(key), tolerance) for key in keys)
        doubts = _doubts(first[name].described, second[name].described)
        found.append(Difference(name, changes, doubts))
    if not any(each.verdict not in (MISSING, ADDED) for one in found for each in one.changes):
        raise ResultsError(
            "A and B have no row in common: the same workload, rung, dtype and settings on both "
            "sides can be compared."
        )
    return found


def change(old: Entry | None, new: Entry | None, tolerance: float = TOLERANCE) -> Change:
    """What became of one row; at least one side must be there."""
    if old is None or new is None:
        there = new or old
        assert there is not None
        return Change(there.name, ADDED if old is None else MISSING, None, False, False)
    was, now = old.row.status, new.row.status
    if was != now and "ok" in (was, now):
        verdict = BROKEN if was == "ok" else MENDED
        status, reason = (now, new.row.reason) if was == "ok" else (was, old.row.reason)
        note = f"{status}: {reason}" if reason else status
        return Change(new.name, verdict, None, False, now in _WORSE, note)
    moved, of_speedup = _moved(old, new)
    if moved is None:
        timed = bool(old.row.seconds and new.row.seconds)
        return Change(new.name, UNKNOWN if timed else SAME, None, of_speedup, False)
    verdict = {1: FASTER, -1: SLOWER, 0: SAME}[moved.beyond(tolerance)]
    regressed = verdict == SLOWER and new.row.kind != "stock"
    return Change(new.name, verdict, moved, of_speedup, regressed, _note(old, new, verdict))


_WORSE = ("wrong", "failed", "out of memory", "did nothing")


def _moved(old: Entry, new: Entry) -> tuple[Shift | None, bool]:
    """By what factor it is faster now, and whether that is of the speed-up over stock."""
    speedups = [_speedups(each) for each in (old, new)]
    if all(speedups):
        return shift(*speedups), True
    found = shift(new.row.seconds, old.row.seconds)
    return found, False


def _speedups(entry: Entry) -> list[float]:
    """Stock's time over this rung's, round by round; empty where stock did not run beside it."""
    stock, own = entry.row.baseline_seconds, entry.row.seconds
    return [before / after for before, after in zip(stock, own, strict=False)]


def _note(old: Entry, new: Entry, verdict: str) -> str:
    notes = []
    if verdict == SLOWER and new.row.kind == "stock":
        notes.append("stock is not this package's: no regression")
    if old.row.noisy or new.row.noisy:
        notes.append("noisy")
    return "; ".join(notes)


def _doubts(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    """Where the machine itself is not what it was."""
    found = []
    for name, words in (("matmul_ceiling", "matmul"), ("copy_ceiling", "copy")):
        old, new = before[name], after[name]
        if old and new and not 1 / (1 + DRIFT) <= new / old <= 1 + DRIFT:
            found.append(
                f"The machine's own {words} ran at {new / old:.2f} times its former rate: it was "
                "disturbed, or is not the same machine."
            )
    return tuple(found)


def _listed(found: dict[str, Any]) -> str:
    return " and ".join(found) if found else "no rows"
