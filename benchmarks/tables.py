"""Results as tables: in a terminal, and in Markdown for a README."""

from __future__ import annotations

from typing import Any

from .rows import Results, Row

COLUMNS = (
    "rung",
    "dtype",
    "median",
    "IQR",
    "vs stock",
    "error",
    "of matmul peak",
    "set-up",
    "pays after",
    "peak memory",
    "host memory",
    "quality",
)


def cells(row: Row) -> list[str]:
    """One row's figures as text, in the order of `COLUMNS`; a reason where there are none."""
    if row.status != "ok":
        return [row.rung, row.dtype if row.error else "", f"{row.status}: {row.reason}"]
    return [
        row.rung,
        "" if row.kind == "overhead" else row.dtype,
        _seconds(row.median),
        _seconds(row.interquartile_range) + (" !" if row.noisy else ""),
        f"{row.speedup:.2f}x" if row.speedup else _against_target(row),
        "" if row.error is None else f"{row.error:.1e}",
        "" if row.matmul_share is None else f"{row.matmul_share:.0%}",
        _seconds(row.setup_seconds),
        _pictures(row),
        _memory(row.peak_memory),
        _memory(row.host_memory),
        _quality(row),
    ]


def caption(results: Results) -> str:
    """Where the numbers come from, in a few lines."""
    machine, versions = results.machine, results.versions
    rows = results.rows
    quick = " (quick: a scaled-down version)" if any(row.quick for row in rows) else ""
    timed = [row for row in rows if row.seconds]
    unit = f", seconds per {timed[0].unit}" if timed else ""
    settings = (
        ", ".join(f"{key} {value}" for key, value in rows[0].settings.items()) if rows else ""
    )
    peaks = machine["matmul_ceiling"] / 1e12, machine["copy_ceiling"] / 1e9
    lines = [
        f"{results.workload}{quick}{unit}; {settings}".rstrip("; "),
        f"{machine['name']}, {machine['cores']} cores, {machine['threads']} threads: "
        f"float32 matmul {peaks[0]:.2f} TFLOP/s, copy {peaks[1]:.1f} GB/s",
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}; "
        f"commit {results.commit}; {results.date}",
        results.command,
    ]
    if any(row.noisy and row.seconds for row in rows):
        lines.append(
            "! the middle half of the samples spreads over more than 10% of the median, "
            "or the machine's host took more than 2% of the processors"
        )
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """A table for a README, its caption below."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for row in results.rows:
        texts = [text.replace("|", "\\|") for text in cells(row)]
        texts += [""] * (len(COLUMNS) - len(texts))
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join([*lines, "", *(f"{line}  " for line in caption(results).splitlines())])


def table(results: Results) -> Any:
    """The same for a terminal, narrower: below the table what does not fit, and rungs not timed."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        box=box.SIMPLE_HEAD,
        title=results.workload,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    timed = [row for row in results.rows if row.status == "ok"]
    lines = [_narrow(row) for row in timed]
    used = [index for index in range(len(_NARROW)) if any(line[index] for line in lines)]
    for index in used:
        grid.add_column(
            _NARROW[index],
            justify="right" if index else "left",
            no_wrap=index > 0,
            min_width=0 if index else 14,
            overflow="fold",
        )
    for row, line in zip(timed, lines, strict=True):
        grid.add_row(
            *(Text(line[index]) for index in used), style="bold" if row.kind == "plan" else None
        )
    notes = [Text(f"{row.rung}: {_quality(row)}") for row in timed if row.quality]
    for row in results.rows:
        if row.status != "ok":
            style = "red" if row.status in ("wrong", "failed") else "dim"
            notes.append(Text(f"{row.rung}: {row.status}: {row.reason}", style=style))
    if any(row.setup_seconds is not None for row in timed):
        notes.append(Text("* pictures after which the set-up is earned back", style="dim"))
    return Group(grid, *notes, Text(caption(results), style="dim"))


_NARROW = (
    "rung",
    "median",
    "± IQR",
    "vs stock",
    "error",
    "of peak",
    "set-up",
    "pays*",
    "memory",
    "host",
)


def _narrow(row: Row) -> list[str]:
    """The figures of `cells` in fewer characters; the dtype goes to the rung, the quality below."""
    rung, dtype, *rest = cells(row)[:-1]
    if row.median and row.interquartile_range is not None:
        rest[1] = f"{row.interquartile_range / row.median:.0%}" + (" !" if row.noisy else "")
    marked = f"{rung} ({dtype})" if dtype not in ("", "float32") else rung
    return [marked, *(text.removesuffix(" pictures").replace("GiB", "G") for text in rest)]


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value < 0.1:
        return f"{value * 1e3:.1f} ms"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def _memory(value: int | None) -> str:
    return "" if value is None else f"{value / 2**30:.2f} GiB"


def _against_target(row: Row) -> str:
    if row.target_seconds is None or row.median is None:
        return ""
    word = "below" if row.median <= row.target_seconds else "ABOVE"
    return f"{word} {row.target_seconds:g} s"


def _pictures(row: Row) -> str:
    if row.setup_seconds is None or not row.baseline_seconds:
        return ""
    return "never" if row.pays_after is None else f"{row.pays_after:.1f} pictures"


def _quality(row: Row) -> str:
    quality = row.quality
    parts = []
    if "psnr" in quality:
        parts.append(f"{quality['psnr']:.0f} dB")
    if "fidelity" in quality:
        low, high = quality["fidelity_low"], quality["fidelity_high"]
        parts.append(
            f"fidelity {quality['fidelity']:.0%} ({low:.0%} to {high:.0%}, "
            f"{quality['prompts']:.0f} prompts)"
        )
    return ", ".join(parts)
