"""The command line: `sdaccel generate`, `doctor`, `report`, `fidelity`, `compare`, `profile`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .parser import build_parser
from .terminal import Terminal

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one sentence on stderr.

    torch is imported by the commands that need it, never for `--help` or a mistyped option.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    terminal = Terminal(json="--json" in words, debug="--debug" in words)

    def run() -> dict[str, object]:
        options = build_parser().parse_args(words)
        found: dict[str, object] = options.run(options, terminal)
        return found

    return terminal.run(run)
