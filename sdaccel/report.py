"""What was applied, what was refused and why, and what really ran."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass
class PassRecord:
    """One pass on one pipe.

    `changed` counts what was changed when the pass was applied, `ran` how often its code has run
    since (a pass increments it as it goes), `refused` gives the reason for each component it left
    alone (the key "pipe" stands for all of it), `seconds` is the time that applying and, later,
    compiling took.
    """

    name: str
    effect: str
    summary: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    applied: bool = False
    changed: Counter[str] = field(default_factory=Counter)
    ran: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def refuse(self, component: str, reason: str) -> None:
        """Note why `component` was left alone."""
        self.refused[component] = reason

    def note(self, sentence: str) -> None:
        """Add a sentence, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @property
    def state(self) -> str:
        """ "applied", "refused", or "nothing to do"."""
        if self.applied:
            return "applied"
        return "refused" if self.refused else "nothing to do"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "effect": self.effect,
            "summary": self.summary,
            "state": self.state,
            "options": dict(self.options),
            "changed": dict(self.changed),
            "ran": dict(self.ran),
            "refused": dict(self.refused),
            "notes": list(self.notes),
            "seconds": {key: round(value, 4) for key, value in self.seconds.items()},
        }


@dataclass
class Report:
    """All passes on one pipe, in the order they were applied; `str` and `rich` both print it."""

    pipeline: str
    plan: str
    device: str
    passes: list[PassRecord]
    calls: Counter[str]
    generations: int
    accelerated: bool = True
    events: list[str] = field(default_factory=list)

    @staticmethod
    def no_calls() -> Counter[str]:
        """The calls of a pipe that nothing counts."""
        return Counter()

    def __getitem__(self, name: str) -> PassRecord:
        """The record of the pass `name`; `KeyError` where the plan has no such pass."""
        for record in self.passes:
            if record.name == name:
                return record
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "pipeline": self.pipeline,
            "plan": self.plan,
            "device": self.device,
            "accelerated": self.accelerated,
            "generations": self.generations,
            "calls": dict(self.calls),
            "passes": [record.to_dict() for record in self.passes],
            "events": list(self.events),
        }

    @property
    def headline(self) -> str:
        """One line: pipeline, plan, device, generations and calls so far."""
        if not self.accelerated:
            return f"{self.pipeline}: not accelerated"
        calls = ", ".join(f"{name} {count}x" for name, count in self.calls.items()) or "nothing yet"
        pictures = f"{self.generations} generation{'s' if self.generations != 1 else ''}"
        return f"{self.pipeline}, plan {self.plan}, on {self.device}; {pictures}; ran: {calls}"

    def __str__(self) -> str:
        lines = [self.headline]
        for record in self.passes:
            lines.append(f"  {record.name:<14} {record.state:<13} {record.effect}")
            lines.extend(f"      {line}" for line in details(record))
        lines.extend(f"  ! {event}" for event in self.events)
        return "\n".join(lines)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=None, show_lines=False)
        for column in ("pass", "state", "effect", "what it did, and what really ran"):
            table.add_column(column)
        colours = {"applied": "green", "refused": "yellow", "nothing to do": "dim"}
        for record in self.passes:
            state = Text(record.state, style=colours[record.state])
            table.add_row(record.name, state, record.effect, "\n".join(details(record)))
        events = [Text(f"! {event}", style="bold red") for event in self.events]
        return Group(Text(self.headline), table, *events)


def details(record: PassRecord) -> list[str]:
    """The lines below a pass's name: what it changed, ran, took, refused and noted."""
    lines = []
    if record.changed:
        lines.append("changed: " + _counts(record.changed))
    if record.applied:
        lines.append("ran: " + (_counts(record.ran) or "not yet"))
    if record.seconds:
        lines.append("took: " + ", ".join(f"{k} {v:.2f} s" for k, v in record.seconds.items()))
    lines.extend(f"left alone: {name}: {reason}" for name, reason in record.refused.items())
    lines.extend(record.notes)
    return lines


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counter.items())
