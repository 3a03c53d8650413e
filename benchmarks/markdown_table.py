"""A table in Markdown for a file under benchmarks/results/, below a line on how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(made: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The line `made`, and the table: `heads`, and the cells of each row in their order."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join([made, "", *(f"| {' | '.join(cells)} |" for cells in lines)]) + "\n"
