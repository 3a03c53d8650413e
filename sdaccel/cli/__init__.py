"""The command line: `sdaccel generate`, `compare`, `bench`, `profile` and others."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import bench
from .parser import build_parser
from .terminal import Terminal

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one sentence on stderr.

    torch is imported by the commands that need it, never for `--help` or a mistyped option.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["bench"] and (measured := bench.harness_words(words[1:])) is not None:
        return bench.measure(measured)
    terminal = Terminal(json="--json" in words, debug="--debug" in words)

    def run() -> dict[str, object]:
        options = build_parser().parse_args(words)
        found: dict[str, object] = options.run(options, terminal)
        return found

    return terminal.run(run)
