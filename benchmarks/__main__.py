"""`python -m sdaccel.benchmarks`: measure workloads, show what was measured, or what is covered."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import provenance
from .errors import BenchmarkError, ResultsError
from .rows import Results, Row

if TYPE_CHECKING:
    from .rungs import Rung

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: all measured rungs are right; 1: one failed or is wrong; 2: bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verb = {"show": _show, "alone": _alone, "coverage": _coverage}.get(
        given[0] if given else "", _run
    )
    try:
        return verb(given if verb is _run else given[1:])
    except (BenchmarkError, ResultsError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("Interrupted; the rows so far are kept.", file=sys.stderr)
        return INTERRUPTED


def _run(given: Sequence[str]) -> int:
    from rich.console import Console

    from . import overheads, workloads
    from .rungs import DEFAULT, rung

    parser = _parser(workloads.DEFAULT, DEFAULT, overheads.NAME)
    options = parser.parse_args(given)
    rungs = [rung(name) for name in dict.fromkeys(options.rungs)]
    chosen = [each for each in options.workload if each != overheads.NAME]
    for name in chosen:
        workloads.workload(name, options.quick)
    console, good = Console(), True
    for name in options.workload:
        path, results = _empty(name, options)
        with console.status(name) as status:
            _fill(results, path, options, rungs, lambda text: status.update(text))
        results.write(path)
        _print(console, results, path)
        good = good and all(row.status not in ("wrong", "failed") for row in results.rows)
    return 0 if good else FAILED


def _fill(
    results: Results,
    path: Path,
    options: argparse.Namespace,
    rungs: Sequence[Rung],
    tell: Callable[[str], None],
) -> None:
    """Measure one workload; its file is written anew whenever a rung is done."""
    from . import overheads
    from .ladder import Ladder, Options
    from .workloads import workload

    if results.workload == overheads.NAME:
        results.rows = overheads.measure_overheads(options.quick, options.repeats, tell)
        return

    def keep(rows: list[Row]) -> None:
        results.rows = rows
        results.write(path)

    how = Options(options.repeats, options.prompts, not options.no_memory, options.together)
    Ladder(workload(results.workload, options.quick), how, tell, keep).climb(rungs)


def _empty(name: str, options: argparse.Namespace) -> tuple[Path, Results]:
    """The results of a run that begins now, and the file for them."""
    now, machine = provenance.now(), provenance.machine()
    quick = "-quick" if options.quick else ""
    path = options.output / machine["slug"] / f"{now:%Y-%m-%d-%H%M%S}-{name}{quick}.json"
    date, command = now.isoformat(timespec="seconds"), provenance.command()
    return path, Results(name, date, command, machine, provenance.versions(), provenance.commit())


def _show(given: Sequence[str]) -> int:
    from rich.console import Console

    from . import kernels
    from .kernel_rows import NAME
    from .tables import markdown

    parser = argparse.ArgumentParser(prog="python -m sdaccel.benchmarks show")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--markdown", action="store_true", help="a table for a README")
    options = parser.parse_args(given)
    for path in options.files:
        results = Results.read(path)
        if results.workload == NAME:
            kernels.show([path], options.markdown)
        elif options.markdown:
            print(markdown(results), end="\n\n")
        else:
            _print(Console(), results, path)
    return 0


def _alone(given: Sequence[str]) -> int:
    from .alone import main as measure

    parser = argparse.ArgumentParser(prog="python -m sdaccel.benchmarks alone")
    parser.add_argument("workload")
    parser.add_argument("rung")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(given)
    measure(options.workload, options.rung, options.quick)
    return 0


def _coverage(given: Sequence[str]) -> int:
    from .coverage import main as cover

    return cover(given)


def _print(console: Any, results: Results, path: Path) -> None:
    from .tables import table

    console.print(table(results))
    console.print(str(path), style="dim", highlight=False, soft_wrap=True)


def _parser(
    workloads: Sequence[str], rungs: Sequence[str], overheads: str
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sdaccel.benchmarks",
        description="Time workloads, stock and accelerated in turns; rows land in a JSON file. "
        "`show FILE...` prints them again, with --markdown as a table for a README.",
    )
    add = parser.add_argument
    everything = [*workloads, overheads]
    add("--workload", nargs="+", default=everything, metavar="NAME", help=", ".join(everything))
    add(
        "--rungs",
        nargs="+",
        default=list(rungs),
        metavar="RUNG",
        help=f"{', '.join(rungs)}, a plan",
    )
    add("--repeats", type=_count, default=6, metavar="N", help="timed samples a rung (6)")
    add("--quick", action="store_true", help="scaled-down workloads, labelled as such")
    add("--output", type=Path, default=Path("benchmarks/results"), metavar="FOLDER")
    add(
        "--prompts",
        type=_whole,
        default=16,
        metavar="N",
        help="pictures for fidelity (16; 0: none)",
    )
    add("--together", action="store_true", help="all rungs in every round (takes memory)")
    add("--no-memory", action="store_true", help="leave out the memory of each rung alone")
    return parser


def _count(text: str) -> int:
    if _whole(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
