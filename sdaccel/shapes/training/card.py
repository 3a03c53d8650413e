"""Fills a model card's table of the training in from the curves that the stages left."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- training -->", "<!-- end of training -->"


def fill_in(card: str, folder: Path) -> str:
    """The card with a new table between its marks; a card without marks stays as it is."""
    table = training_table(folder)
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return marked.sub(lambda _: f"{BEGIN}\n{table}\n{END}", card)


def training_table(folder: Path) -> str:
    """Markdown: a row for each stage of the folder, and the last stage's fidelity on the way."""
    curves = {path.stem: read_curve(path) for path in sorted(folder.glob("*.jsonl"))}
    rows = ["| Stage | Steps | Samples | Minutes | Ends with |", "|---|---|---|---|---|"]
    rows += [_row(name, curve[-1]) for name, curve in curves.items() if curve]
    measured = [_fidelity(name, line) for name, curve in curves.items() for line in curve]
    return "\n".join([*rows, "", *filter(None, measured)]).rstrip()


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a stage's curve."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _row(name: str, last: dict[str, Any]) -> str:
    ends = ", ".join(
        f"{key} {value:.3f}"
        for key, value in last.items()
        if key not in ("step", "pictures", "minutes", "fidelity", "low", "high", "wrong")
    )
    return f"| {name} | {last['step']:,} | {last['pictures']:,} | {last['minutes']:.0f} | {ends} |"


def _fidelity(name: str, line: dict[str, Any]) -> str:
    if "fidelity" not in line:
        return ""
    return (
        f"- {name} after {line['pictures']:,} samples: fidelity {line['fidelity']:.1%} "
        f"(95% interval {line['low']:.1%} to {line['high']:.1%})"
    )
