"""Tables in Markdown, and the marked sections of a README that are written from rows alone.

A section says what it holds: a folder of results, relative to the README, and the workloads wanted:

    <!-- rows: benchmarks/results/amd-epyc-2-cores sd15-unet sd15-vae -->
    <!-- end of rows -->

What stands between the two lines is written anew each time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ResultsError
from ..prices import cost
from ..reader import Run, read_all
from ..rows import Row
from ..selection import Entry, Group, Machine, groups, machines
from . import wording

_SECTION = re.compile(
    r"(<!-- rows: (?P<asked>[^\n]*?) -->\n)(.*?)(<!-- end of rows -->)", re.DOTALL
)
_BEGIN, _END = "<!-- rows:", "<!-- end of rows -->"
_LONGEST_REASON = 90

COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("dtype", wording.dtype),
    ("median", lambda row: wording.seconds(row.median) + (" !" if row.noisy else "")),
    ("vs stock", lambda row: wording.factor(row.speedup)),
    ("of matmul", lambda row: "" if row.matmul_share is None else f"{row.matmul_share:.0%}"),
    ("error", lambda row: f"{row.error:.1e}" if row.error else ""),
    ("quality", wording.quality),
    ("memory", lambda row: wording.memory(row.peak_memory)),
    ("host memory", lambda row: wording.memory(row.host_memory)),
    ("set-up", lambda row: wording.seconds(row.setup_seconds)),
)


def rewritten(text: str, folder: Path) -> str:
    """A README's text with every marked section anew; folders are relative to `folder`.

    Raises `ResultsError` for a text without sections, or one whose marks don't pair.
    """
    if text.count(_BEGIN) != text.count(_END) or len(_SECTION.findall(text)) != text.count(_BEGIN):
        raise ResultsError(
            f"The marks of its sections don't pair: each '{_BEGIN} FOLDER WORKLOAD... -->' needs "
            f"its '{_END}', both on lines of their own."
        )
    if _BEGIN not in text:
        raise ResultsError(
            f"It has no section for rows: put '{_BEGIN} FOLDER WORKLOAD... -->' and '{_END}' where "
            "the table shall stand."
        )

    def written(found: re.Match[str]) -> str:
        place, *workloads = found["asked"].split()
        tables = markdown(read_all([folder / place]), workloads)
        return f"{found[1]}\n{tables}\n\n{found[4]}"

    return _SECTION.sub(written, text)


def markdown(
    runs: Sequence[Run], workloads: Sequence[str] = (), per_hour: float | None = None
) -> str:
    """A table for each workload of each machine, and below them where the figures come from.

    Without names: every workload. Rows of its scaled-down form are shown where there are no others.
    Raises `ResultsError` for a workload that no row is of.
    """
    parts = []
    for machine in machines(runs):
        tables = _tables(machine, workloads, per_hour)
        if tables:
            parts += [*tables, _caption(machine, workloads)]
    missing = set(workloads) - {row.workload for run in runs for row in run.results.rows}
    if missing or not parts:
        raise ResultsError(f"There are no rows of {', '.join(sorted(missing)) or 'a pipeline'}.")
    return "\n\n".join(parts)


def _tables(machine: Machine, workloads: Sequence[str], per_hour: float | None) -> list[str]:
    found = groups(_timed(machine, workloads))
    if workloads:
        found.sort(key=lambda group: list(workloads).index(group.workload))
    return [_table(group, per_hour) for group in found]


def _timed(machine: Machine, workloads: Sequence[str]) -> list[Entry]:
    """The rows to show: of these workloads, else of all, scaled down where there are no others."""
    pipelines = [
        each
        for each in machine.entries
        if each.row.kind in ("stock", "peer", "plan", "control")
        and each.raw.get("case") is None
        and (not workloads or each.row.workload in workloads)
    ]
    whole = {each.row.workload for each in pipelines if not each.row.quick}
    return [each for each in pipelines if not each.row.quick or each.row.workload not in whole]


def _table(group: Group, per_hour: float | None) -> str:
    rows = [each.row for each in group.entries]
    ordered = sorted(rows, key=lambda row: (row.kind != "stock", row.speedup or 0.0))
    columns = dict(COLUMNS)
    if per_hour is not None:
        columns[f"cost at {per_hour:g} an hour"] = lambda row: _cost(row, per_hour)
    used = [
        (title, write)
        for title, write in columns.items()
        if any(row.status == "ok" and write(row) for row in ordered)
    ]
    unit = f"{group.workload}, one {group.unit}" + (" (scaled down)" if group.quick else "")
    unit += f"; {group.apart}" if group.apart else ""
    lines = [
        f"| {' | '.join([unit, *(title for title, _ in used)])} |",
        "|---" * len(used) + "|---|",
    ]
    for row in ordered:
        cells = [_name(row), *(write(row) for _, write in used)]
        if row.status != "ok":
            cells = [_name(row), _trouble(row), *[""] * (len(used) - 1)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _name(row: Row) -> str:
    """A plan in code letters; its figure is what the reader looks for."""
    return f"`{row.rung}`" if row.kind == "plan" else row.rung


def _trouble(row: Row) -> str:
    words = " ".join(wording.trouble(row).split())
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}…"


def _cost(row: Row, per_hour: float) -> str:
    found = cost(row, per_hour)
    return "" if found is None else f"{found[0]:.3g} for {found[1]}"


def _caption(machine: Machine, workloads: Sequence[str]) -> str:
    """Machine, versions, and from when the rows are."""
    shown = _timed(machine, workloads)
    dates = sorted({each.run.results.date[:10] for each in shown})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    described = machine.described
    versions = max((each.run.results for each in shown), key=lambda run: run.date).versions
    noisy = " “!”: noisy." if any(each.row.noisy and each.row.seconds for each in shown) else ""
    return (
        f"On {described['name']}, {described['cores']} cores, {described['threads']} threads "
        f"(copy {wording.copy_rate(machine.copy_ceiling)}), torch {versions['torch']}, "
        f"{when}, in turns with stock; medians.{noisy}"
    )
