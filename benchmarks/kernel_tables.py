"""The kernels' rows as tables: in a terminal, and in Markdown."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from .kernel_rows import KERNEL, KernelResults, KernelRow, verdict_text

COLUMNS = ("variant", "median", "IQR", "vs stock", "rate", "of ceiling", "error", "target")


def cells(row: KernelRow) -> list[str]:
    """One row's figures as text, in the order of `COLUMNS`; a reason where there are none."""
    if row.status != "ok":
        return [row.rung, f"{row.status}: {row.reason}"]
    spread = row.interquartile_range
    return [
        row.rung,
        _duration(row.median),
        "" if not row.median or spread is None else _spread(row),
        "" if row.speedup is None else f"{row.speedup:.2f}x",
        _rate(row),
        "" if row.share is None else f"{row.share:.0%}",
        "" if row.error is None else f"{row.error:.1e}",
        "; ".join(verdict_text(each) for each in row.verdicts),
    ]


def caption(results: KernelResults) -> str:
    """Where the numbers come from, in a few lines."""
    machine, rows = results.machine, results.kernel_rows()
    ceilings = sorted({(row.dtype, row.matmul_ceiling or 0.0) for row in rows})
    matmuls = ", ".join(f"{dtype} {rate / 1e12:.2f} TFLOP/s" for dtype, rate in ceilings)
    quick = " (quick: tiny sizes)" if any(row.quick for row in rows) else ""
    lines = [
        f"kernels{quick}, the time of one call; rates by the op's own cost, whatever is moved",
        f"{machine['name']}: copy {machine['copy_ceiling'] / 1e9:.1f} GB/s; matmul {matmuls}",
        f"{', '.join(f'{name} {version}' for name, version in results.versions.items())}; "
        f"commit {results.commit}; {results.date}",
        results.command,
    ]
    if any(row.noisy and row.seconds for row in rows):
        lines.append("! the middle half of the samples spreads over more than 10% of the median")
    if any(row.launched == "host" and row.seconds for row in rows if row.host_seconds):
        lines.append("* launched call by call: it could not be captured in a graph")
    return "\n".join(lines)


def markdown(results: KernelResults) -> str:
    """One table, a line for each variant of each case, its caption below."""
    head = ("op", "model", "case", "dtype", *COLUMNS)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in results.kernel_rows():
        texts = [row.workload, row.model, row.case, row.dtype, *cells(row)]
        texts = [text.replace("|", "\\|") for text in texts]
        lines.append(f"| {' | '.join([*texts, *[''] * (len(head) - len(texts))])} |")
    return "\n".join([*lines, "", *(f"{line}  " for line in caption(results).splitlines())])


def table(results: KernelResults) -> Any:
    """The same for a terminal: a table a case, below it targets and who was not timed."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for (op, model, case), group in groupby(
        results.kernel_rows(), lambda row: (row.workload, row.model, row.case)
    ):
        rows = list(group)
        parts += [_grid(f"{op}, {model}: {case} ({rows[0].dtype})", rows), *_notes(rows), Text()]
    return Group(*parts, Text(caption(results), style="dim"))


def _grid(title: str, rows: list[KernelRow]) -> Any:
    from rich import box
    from rich.table import Table

    grid = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in COLUMNS[:-1]:
        grid.add_column(name, justify="left" if name == "variant" else "right", no_wrap=True)
    for row in rows:
        if row.status == "ok":
            grid.add_row(*cells(row)[:-1], style="bold" if row.kind == KERNEL else None)
    return grid


def _notes(rows: list[KernelRow]) -> list[Any]:
    from rich.text import Text

    notes = []
    for row in rows:
        for verdict in row.verdicts:
            style = "red" if verdict["met"] is False else "dim"
            notes.append(Text(f"  target {verdict_text(verdict)}", style=style))
        for note in row.notes:
            notes.append(Text(f"  {row.rung}: {note}", style="dim"))
        if row.status != "ok":
            style = "red" if row.status in ("wrong", "failed") else "dim"
            notes.append(Text(f"  {row.rung}: {row.status}: {row.reason}", style=style))
    return notes


def _spread(row: KernelRow) -> str:
    assert row.median is not None
    assert row.interquartile_range is not None
    marks = "!" * row.noisy + "*" * (row.launched == "host" and row.host_seconds is not None)
    return f"{row.interquartile_range / row.median:.0%} {marks}".rstrip()


def _rate(row: KernelRow) -> str:
    if row.rate is None:
        return ""
    if row.bound == "memory":
        return f"{row.rate / 1e9:.3g} GB/s"
    return f"{row.rate / 1e12:.3g} TFLOP/s"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
