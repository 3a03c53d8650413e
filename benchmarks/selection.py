"""The newest row of everything that was measured, machine by machine; nothing is averaged."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .kernel_rows import KernelRow
from .quality_rows import QualityResults, QualityRow
from .reader import Run
from .rows import Row

Key = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One row, as it stands in its file too, and the run that it came from."""

    run: Run
    row: Row
    raw: dict[str, Any]

    @property
    def key(self) -> Key:
        """What must be equal for two rows to be of the same thing.

        Settings count: a rung at another resolution is another thing. So does what a compared plan
        was held against, and the shape of a kernel's case.
        """
        row = self.row
        settings = json.dumps(row.settings, sort_keys=True)
        more: Key = ()
        if isinstance(row, KernelRow):
            more = (row.model, row.case)
        elif isinstance(row, QualityRow):
            more = (row.against,)
        quick = "quick" if row.quick else ""
        return (row.workload, quick, row.rung, row.dtype, *more, settings)

    @property
    def name(self) -> str:
        """The row in words: "sd15-unet, fast, bfloat16"."""
        row = self.row
        quick = " (quick)" if row.quick else ""
        case = f" {row.model} {row.case}" if isinstance(row, KernelRow) else ""
        return f"{row.workload}{quick}{case}, {row.rung}, {row.dtype}"

    @property
    def stages(self) -> dict[str, float]:
        """Seconds a unit by the part of the pipeline; empty where they were not measured."""
        stages = self.raw.get("stages") or {}
        return {name: seconds for name, seconds in stages.items() if seconds}


@dataclass(frozen=True)
class Machine:
    """All that is shown of one machine: the newest rows, and how many older ones are not."""

    name: str
    entries: tuple[Entry, ...]
    older: int

    @property
    def described(self) -> dict[str, Any]:
        """As the newest run that timed anything found it, else the newest."""
        timed = [each.run.results for each in self.entries if each.row.seconds]
        found = timed or [each.run.results for each in self.entries]
        return max(found, key=lambda results: results.date).machine

    @property
    def copy_ceiling(self) -> float | None:
        """The fastest copy that any of these runs measured, bytes a second: others disturb one."""
        found = {each.run.results.machine["copy_ceiling"] for each in self.entries}
        return max((each for each in found if each is not None), default=None)


@dataclass(frozen=True)
class Group:
    """Rows of the same workload at the same size and settings, which can be compared.

    `apart` says by which settings it differs from other groups of that workload, where there are.
    """

    workload: str
    quick: bool
    apart: str
    entries: tuple[Entry, ...]

    @property
    def unit(self) -> str:
        """What is timed."""
        return self.entries[0].row.unit


def groups(entries: Iterable[Entry]) -> list[Group]:
    """The groups, in the order in which their first rows come."""
    found: dict[tuple[str, bool, str], list[Entry]] = {}
    for each in entries:
        settings = json.dumps(each.row.settings, sort_keys=True)
        found.setdefault((each.row.workload, each.row.quick, settings), []).append(each)
    names = [(name, quick) for name, quick, _ in found]
    return [
        Group(
            name, quick, _settings(rows[0]) if names.count((name, quick)) > 1 else "", tuple(rows)
        )
        for (name, quick, _), rows in found.items()
    ]


def _settings(entry: Entry) -> str:
    return ", ".join(f"{name} {value}" for name, value in entry.row.settings.items())


def machines(runs: Iterable[Run]) -> list[Machine]:
    """The machines of these runs, which come oldest first.

    Those on which anything was timed are first, the one with the newest row ahead.
    """
    entries: dict[str, dict[Key, Entry]] = {}
    older: dict[str, int] = {}
    for run in sorted(runs, key=lambda each: isinstance(each.results, QualityResults)):
        name = _home(run, entries)
        kept = entries.setdefault(name, {})
        for row, raw in zip(run.results.rows, run.raw_rows, strict=True):
            entry = Entry(run, row, raw)
            older[name] = older.get(name, 0) + (entry.key in kept)
            kept.pop(entry.key, None)
            kept[entry.key] = entry
    found = [
        Machine(name, tuple(kept.values()), older[name]) for name, kept in entries.items() if kept
    ]
    return sorted(found, key=_weight, reverse=True)


def _home(run: Run, names: Iterable[str]) -> str:
    """The machine that a run belongs to; how many threads drew pictures makes none of its own."""
    if isinstance(run.results, QualityResults):
        folder = f"{run.results.machine['slug']}, "
        return next((name for name in names if name.startswith(folder)), run.machine)
    return run.machine


def _weight(machine: Machine) -> tuple[bool, str]:
    """Whether anything was timed there, and when last."""
    timed = any(each.row.seconds for each in machine.entries)
    return timed, max(each.run.results.date for each in machine.entries)
