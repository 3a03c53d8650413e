"""sdaccel bench: measure this machine, and show, compare and report what was measured."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, RegressionError

if TYPE_CHECKING:
    from .terminal import Terminal

VERBS = ("show", "diff", "report")
RESULTS = Path("benchmarks/results")
_PAGE = Path("sdaccel-report.html")


def harness_words(words: Sequence[str]) -> list[str] | None:
    """What the harness gets, for `sdaccel bench` and whatever is no verb of this file; else None.

    It reads its own options, as `python -m sdaccel.benchmarks` does: `sdaccel bench run --help`.
    """
    if words and words[0] in (*VERBS, "-h", "--help"):
        return None
    return list(words[1:] if words[:1] == ["run"] else words)


def measure(words: Sequence[str]) -> int:
    """Run the harness; returns its exit code."""
    from ..benchmarks.__main__ import main

    return main(words)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel bench` takes."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("run", help="measure; the same without a verb (run --help lists its options)")
    show = verbs.add_parser("show", help="print the tables of result files")
    show.add_argument("places", nargs="+", type=Path, metavar="FILE")
    show.add_argument("--markdown", action="store_true", help="as Markdown")
    diff = verbs.add_parser("diff", help="say what moved beyond noise from A to B")
    diff.add_argument("before", type=Path, metavar="A", help="a file or a folder of results")
    diff.add_argument("after", type=Path, metavar="B", help="the same, measured later")
    diff.add_argument(
        "--tolerance", type=_percent, metavar="PERCENT", help="the smallest change that counts (2)"
    )
    report = verbs.add_parser("report", help="write one HTML page, and tables for a README")
    report.add_argument(
        "places", nargs="*", type=Path, metavar="FILE", help=f"or folder ({RESULTS})"
    )
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"the page ({_PAGE})")
    report.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write tables; where FILE is there, its marked sections alone",
    )
    report.add_argument(
        "--price-per-hour", type=_price, metavar="X", help="of this machine, in any currency"
    )
    for each in (show, diff, report):
        each.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        each.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Show, compare or report."""
    verb = {"show": _show, "diff": _diff, "report": _report}[options.verb]
    return verb(options, terminal)


def _show(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from ..benchmarks import kernel_tables, tables
    from ..benchmarks.kernel_rows import KernelResults
    from ..benchmarks.reader import read_all

    runs = read_all(options.places)
    for each in runs:
        results: Any = each.results
        how: Any = kernel_tables if isinstance(results, KernelResults) else tables
        terminal.say((how.markdown if options.markdown else how.table)(results), str(each.path))
    return {"results": [{"file": str(each.path), **each.results.to_dict()} for each in runs]}


def _diff(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Raises `RegressionError` where something got worse beyond noise."""
    from ..benchmarks import diff
    from ..benchmarks.reader import read_all
    from .bench_diff import sentence, shown

    tolerance = diff.TOLERANCE if options.tolerance is None else options.tolerance
    found = diff.compare(read_all([options.before]), read_all([options.after]), tolerance)
    terminal.say(*shown(found))
    result = {
        "machines": [
            {
                "machine": each.machine,
                "doubts": list(each.doubts),
                "changes": [change.to_dict() for change in each.changes],
            }
            for each in found
        ]
    }
    worse = [change for each in found for change in each.regressions]
    if worse:
        raise RegressionError(sentence(worse), result)
    return result


def _report(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from ..benchmarks.reader import read_all

    output = options.output or (None if options.markdown else _PAGE)
    for path in filter(None, (output, options.markdown)):
        if path.is_dir() or not path.resolve().parent.is_dir():
            raise InputError(f"'{path}' can't be written: name a file in a folder that is there.")
    if not options.places and not RESULTS.is_dir():
        raise InputError(f"There is no {RESULTS} here: name files or folders of results.")
    runs = read_all(options.places or [RESULTS])
    result: dict[str, Any] = {"files": len(runs), "rows": sum(len(each.raw_rows) for each in runs)}
    if output is not None:
        from ..benchmarks.reporting.page import render

        with terminal.step("drawing the report"):
            output.write_text(render(runs, options.price_per_hour), encoding="utf-8")
        result["page"] = str(output.resolve())
    if options.markdown is not None:
        _write_markdown(options.markdown, runs, options.price_per_hour)
        result["markdown"] = str(options.markdown.resolve())
    terminal.say(*(result[name] for name in ("page", "markdown") if name in result))
    return result


def _write_markdown(path: Path, runs: Sequence[Any], per_hour: float | None) -> None:
    """A new file gets every table; of one that is there, the marked sections are written anew."""
    from ..benchmarks.errors import ResultsError
    from ..benchmarks.reporting.readme import markdown, rewritten

    if not path.exists():
        path.write_text(markdown(runs, per_hour=per_hour) + "\n", encoding="utf-8")
        return
    before = path.read_text(encoding="utf-8")
    try:
        after = rewritten(before, path.resolve().parent)
    except ResultsError as error:
        raise InputError(f"{path} stays as it is. {error}") from error
    path.write_text(after, encoding="utf-8")


def _percent(text: str) -> float:
    value = _price(text.removesuffix("%"))
    return value / 100


def _price(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of at least 0")
    return value
