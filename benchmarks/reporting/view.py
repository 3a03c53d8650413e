"""What the page shows of one machine: its parts in order, each with its rows and charts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..kernel_rows import KernelRow
from ..quality_rows import QualityRow
from ..rows import Row
from ..selection import Entry, Group, Machine, groups
from . import wording
from .drawing import Spec
from .frontier_chart import described, error_chart, fidelity_chart, psnr_chart
from .ladder_chart import furthest, ladder_chart
from .pictures import Comparison, comparison
from .roofline_chart import ceiling_chart, roofline_chart
from .stage_chart import stage_chart
from .table import Table, kernels_table, rungs_table


@dataclass(frozen=True)
class Card:
    """A chart with its heading, what it shows in a sentence, and what could not be drawn.

    `told` is the chart in words, for those who don't see it.
    """

    identity: str
    title: str
    words: str
    spec: Spec
    troubles: tuple[str, ...] = ()
    told: str = ""


@dataclass(frozen=True)
class Section:
    """Charts under one heading; `wide` ones have names at their points, and need room."""

    title: str
    words: str
    cards: tuple[Card, ...]
    wide: bool = False


@dataclass(frozen=True)
class Highlight:
    """The best verified figure of a workload, and the best that others reach there."""

    figure: str
    workload: str
    words: str
    beside: str
    noisy: bool


@dataclass(frozen=True)
class Source:
    """One file: when, from which commit, with which command."""

    file: str
    date: str
    commit: str
    command: str


@dataclass
class MachineView:
    """One machine's part of the page."""

    identity: str
    name: str
    facts: list[tuple[str, str]]
    highlights: list[Highlight]
    sections: list[Section]
    comparisons: list[Comparison]
    rungs: Table | None
    kernels: Table | None
    older: int
    sources: list[Source] = field(default_factory=list)


def view(machine: Machine, identity: str, per_hour: float | None) -> MachineView:
    """The parts of one machine; `identity` starts the names of its elements on the page."""
    compared = [each for each in machine.entries if isinstance(each.row, QualityRow)]
    kernels = [each for each in machine.entries if isinstance(each.row, KernelRow)]
    rungs = [each for each in machine.entries if each not in compared and each not in kernels]
    rungs.sort(key=lambda each: (each.row.quick, each.row.kind == "overhead", each.row.workload))
    sections = [
        *_ladders([each for each in rungs if each.row.kind != "overhead"], identity),
        *_stages(rungs, identity),
        *_frontiers(rungs, identity),
        *_rooflines(rungs, kernels, identity),
    ]
    return MachineView(
        identity=identity,
        name=_name(machine),
        facts=_facts(machine),
        highlights=_highlights(rungs),
        sections=sections,
        comparisons=sorted(map(comparison, compared), key=lambda each: not each.pairs),
        rungs=rungs_table(rungs, per_hour) if rungs else None,
        kernels=kernels_table(kernels) if kernels else None,
        older=machine.older,
        sources=_sources(machine),
    )


def _ladders(entries: Sequence[Entry], identity: str) -> list[Section]:
    found = []
    for quick in (False, True):
        chosen = [each for each in entries if each.row.quick == quick]
        end = furthest(chosen)
        names = f"{identity}-ladder-{'quick-' if quick else ''}"
        cards = tuple(
            Card(
                names + str(index),
                group.workload,
                _words(group),
                ladder_chart(group.entries, end),
                _troubles(group.entries),
            )
            for index, group in enumerate(groups(chosen))
        )
        if cards:
            found.append(Section(*_LADDERS[quick], cards))
    return found


_LADDERS = {
    False: (
        "The ladder",
        "How many times as fast as stock diffusers in fp32, in turns with it in one process. Lines "
        "through the bars are 95% intervals, from six rounds on; pale bars with ! are noisy.",
    ),
    True: (
        "The ladder, scaled down",
        "The published widths with few blocks and small pictures (--quick): good for comparing "
        "rungs, not for quoting.",
    ),
}
"""Title and words: of whole workloads, of scaled-down ones."""


def _words(group: Group) -> str:
    return f"one {group.unit}" + (f"; {group.apart}" if group.apart else "")


def _troubles(entries: Sequence[Entry]) -> tuple[str, ...]:
    rows = [each.row for each in entries if each.row.status != "ok"]
    return tuple(f"{wording.label(row)}: {wording.trouble(row)}" for row in rows)


def _stages(entries: Sequence[Entry], identity: str) -> list[Section]:
    cards = []
    for index, group in enumerate(groups(entries)):
        drawn = stage_chart(group.entries)
        if drawn is not None:
            title = f"{group.workload} (quick)" if group.quick else group.workload
            cards.append(Card(f"{identity}-stages-{index}", title, _words(group), drawn))
    words = "The parts of a picture, timed in calls of their own."
    return [Section("Where the time goes", words, tuple(cards))] if cards else []


def _frontiers(entries: Sequence[Entry], identity: str) -> list[Section]:
    whole = [each for each in entries if not each.row.quick]
    cards = [
        Card(
            f"{identity}-frontier-{name}-{index}",
            f"{group.workload}: {title}",
            words,
            drawn,
            (),
            told,
        )
        for index, group in enumerate(groups(whole))
        for name, title, chart, words in _FRONTIERS
        if (drawn := chart(group.entries)) is not None
        for told in [described(group.entries)]
    ]
    errors = error_chart(whole)
    if errors is not None:
        words = "up is closer; no error is drawn at 1e-8; the line joins those that none beats"
        cards.append(Card(f"{identity}-frontier-error", "Error of one unit", words, errors))
    words = (
        "What each rung pays for its speed; up and to the right is better. The full line joins the "
        "plans that no other beats in both, each dashed one a family of controls, stock in fewer "
        "steps or a peer that skips or merges work: a plan below one is not worth its name. Bars "
        "are 95% intervals."
    )
    return [Section("Speed against quality", words, tuple(cards), wide=True)] if cards else []


_FRONTIERS: tuple[tuple[str, str, Callable[[Sequence[Entry]], Spec | None], str], ...] = (
    ("psnr", "like stock's pictures?", psnr_chart, "how close to what stock draws"),
    ("fidelity", "what was asked for?", fidelity_chart, "as the checker finds in the pictures"),
)


def _rooflines(rungs: Sequence[Entry], kernels: Sequence[Entry], identity: str) -> list[Section]:
    cards = []
    shares = ceiling_chart(rungs)
    if shares is not None:
        words = "beyond 100%: convolutions and fused kernels can pass the matmul of the same dtype"
        cards.append(Card(f"{identity}-ceiling", "Of the machine's matmul", words, shares))
    roof = roofline_chart([*rungs, *kernels])
    if roof is not None:
        words = "a point under the slope is bound by memory, under the flat by arithmetic"
        cards.append(Card(f"{identity}-roofline", "Roofline", words, roof))
    words = "FLOPs counted from the graph, ceilings measured in the same process."
    return [Section("Against the machine's limits", words, tuple(cards))] if cards else []


def _highlights(entries: Sequence[Entry]) -> list[Highlight]:
    """Each whole workload's fastest plan that is right, the largest figure first."""
    found: list[tuple[float, Highlight]] = []
    for group in groups(entries):
        timed = [each.row for each in group.entries if each.row.status == "ok"]
        best = _fastest(row for row in timed if row.kind == "plan")
        if group.quick or best is None:
            continue
        rival = _fastest(row for row in timed if row.kind in ("stock", "peer"))
        highlight = Highlight(
            figure=wording.factor(best.speedup),
            workload=group.workload,
            words=_said(best),
            beside="" if rival is None else _rival(rival),
            noisy=best.noisy,
        )
        found.append((best.speedup or 0.0, highlight))
    return [each for _, each in sorted(found, key=lambda pair: -pair[0])]


def _said(row: Row) -> str:
    """A row's time, and its pictures' quality where they are not stock's."""
    time = f"{wording.label(row)}, {wording.seconds(row.median)} a {row.unit}"
    quality = "" if row.effect == "exact" else wording.quality(row)
    return f"{time}; {quality}" if quality else time


def _fastest(rows: Iterable[Row]) -> Row | None:
    timed = [row for row in rows if row.speedup is not None]
    return max(timed, key=lambda row: row.speedup or 0.0, default=None)


def _rival(row: Row) -> str:
    return f"best of the others: {wording.label(row)}, {wording.factor(row.speedup)}"


def _name(machine: Machine) -> str:
    described = machine.described
    counts = [
        f"{described[name]} {name if described[name] != 1 else name.removesuffix('s')}"
        for name in ("cores", "threads")
    ]
    return ", ".join([described["name"], *counts])


def _facts(machine: Machine) -> list[tuple[str, str]]:
    """The machine, its ceilings and the versions of the newest run."""
    described: dict[str, Any] = machine.described
    newest = max((each.run.results for each in machine.entries), key=lambda run: run.date)
    matmuls: dict[str, float] = {}
    for each in machine.entries:
        row = each.row
        if row.matmul_ceiling:
            dtype = wording.dtype(row)
            matmuls[dtype] = max(matmuls.get(dtype, 0.0), row.matmul_ceiling)
    facts = {
        "machine": _name(machine),
        "folder": str(described["slug"]),
        "memory": wording.memory(described.get("memory_total")),
        "instruction sets": ", ".join(described.get("instruction_sets") or ()),
        "system": ", ".join(filter(None, (described.get("system"), described.get("libc")))),
        "matmul, best measured": ", ".join(
            f"{dtype} {wording.flops_rate(rate)}" for dtype, rate in sorted(matmuls.items())
        ),
        "copy, best measured": wording.copy_rate(machine.copy_ceiling),
        "versions": ", ".join(f"{name} {version}" for name, version in newest.versions.items()),
    }
    return [(name, text) for name, text in facts.items() if text]


def _sources(machine: Machine) -> list[Source]:
    runs = {each.run.path: each.run for each in machine.entries}
    return [
        Source(run.path.name, run.results.date, run.results.commit, run.results.command)
        for run in sorted(runs.values(), key=lambda run: run.results.date, reverse=True)
    ]
