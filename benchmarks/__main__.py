"""`python -m sdaccel.benchmarks`: measure workloads, show what was measured, or what is covered.

Each workload is measured in a process of its own, in which its rungs share the weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import command, provenance
from .errors import BenchmarkError, ResultsError
from .rows import Results, Row
from .run_folder import nothing_left, run_beside

if TYPE_CHECKING:
    from .rungs import Rung

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: all is right, peers apart; 1: a rung failed or is wrong; 2: bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verbs = {
        "show": _show,
        "alone": _alone,
        "coverage": _coverage,
        "export-coverage": _export_coverage,
        "export-real-size": _export_real_size,
        "hoist": _hoist,
        "host-time": _host_time,
        "self-test": _self_test,
    }
    verb = verbs.get(given[0] if given else "", _run)
    try:
        with nothing_left():
            return verb(given if verb is _run else given[1:])
    except (BenchmarkError, ResultsError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("Interrupted; the rows so far are kept.", file=sys.stderr)
        return INTERRUPTED


def _run(given: Sequence[str]) -> int:
    from . import overheads, workloads
    from .frontier import frontier
    from .rungs import each_pass, rung

    options = command.parser().parse_args(given)
    chosen = command.workloads_of(options)
    known = [workloads.workload(each, options.quick) for each in chosen if each != overheads.NAME]
    if options.frontier:
        for each in known:
            frontier(each)
    rungs = [rung(name) for name in dict.fromkeys(command.rungs_of(options))]
    rungs += each_pass(options.each_pass) if options.each_pass else []
    deadline = time.monotonic() + options.budget
    if len(chosen) > 1:
        return max(_in_its_own_process(name, options, deadline) for name in chosen)
    return _measure(chosen[0], options, rungs, deadline)


def _in_its_own_process(name: str, options: argparse.Namespace, deadline: float) -> int:
    """One workload in a fresh process, where nothing of the others is left; its exit code."""
    left = deadline - time.monotonic()
    if left <= 0:
        print(f"{name}: skipped, the time that was given was used up.")
        return 0
    module = [sys.executable, "-m", "sdaccel.benchmarks"]
    code = run_beside([*module, *command.alone(name, options, left)]).returncode
    if code < 0:
        print(f"{name} was ended by signal {-code}; its rows so far are kept.", file=sys.stderr)
        return FAILED
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code


def _measure(name: str, options: argparse.Namespace, rungs: Sequence[Rung], deadline: float) -> int:
    """Measure one workload, or what sdaccel itself costs; rows are kept whenever a rung is done."""
    from rich.console import Console

    from . import overheads
    from .frontier import frontier
    from .ladder import Ladder
    from .workloads import workload

    console = Console()
    chosen = None if name == overheads.NAME else workload(name, options.quick)
    path, results = _empty(chosen.name if chosen else name, options)

    def keep(rows: list[Row]) -> None:
        results.rows = rows
        results.write(path)

    with console.status(name) as status:

        def tell(text: str) -> None:
            status.update(text)

        if chosen is None:
            keep(overheads.measure_overheads(options.quick, options.repeats, tell))
        else:
            how = command.ladder_options(options, deadline)
            more = frontier(chosen) if options.frontier else []
            keep(Ladder(chosen, how, tell, keep).climb(_each_once([*rungs, *more])))
    _print(console, results, path)
    bad = [row for row in results.rows if row.status in ("wrong", "failed")]
    return FAILED if any(row.kind != "peer" for row in bad) else 0


def _each_once(rungs: Sequence[Rung]) -> list[Rung]:
    return list({each.name: each for each in rungs}.values())


def _self_test(given: Sequence[str]) -> int:
    from rich.console import Console

    from .self_test import self_test
    from .workloads import workload

    options = command.self_test_parser().parse_args(given)
    console = Console()
    with console.status("self-test") as status:
        chosen = workload(options.workload, quick=True)
        checks, _ = self_test(chosen, options.repeats, lambda text: status.update(text))
    for check in checks:
        print(check)
    return 0 if all(check.passed for check in checks) else FAILED


def _empty(name: str, options: argparse.Namespace) -> tuple[Path, Results]:
    """The results of a run that begins now, and the file for them."""
    now, machine = provenance.now(), provenance.machine()
    quick = "-quick" if options.quick else ""
    stem = provenance.file_name(name) + quick
    path = options.output / machine["slug"] / f"{now:%Y-%m-%d-%H%M%S}-{stem}.json"
    date, how = now.isoformat(timespec="seconds"), provenance.command()
    return path, Results(name, date, how, machine, provenance.versions(), provenance.commit())


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


def _export_coverage(given: Sequence[str]) -> int:
    from .export_coverage import main as cover

    return cover(given)


def _export_real_size(given: Sequence[str]) -> int:
    from .export_real import main as measure

    return measure(given)


def _hoist(given: Sequence[str]) -> int:
    from .hoist import main as count

    return count(given)


def _host_time(given: Sequence[str]) -> int:
    from rich.console import Console

    from . import host_time
    from .rungs import rung

    options = host_time.options_of(given)
    if others := [name for name in options.plans if rung(name).kind != "plan"]:
        raise BenchmarkError(f"'{others[0]}' is no plan: give one such as none+hoist.")
    console = Console()
    path, results = _empty(host_time.NAME, options)
    with console.status(host_time.NAME) as status:
        plans = list(dict.fromkeys(options.plans))
        results.rows = host_time.measure_host_time(plans, options.repeats, status.update)
    results.write(path)
    _print(console, results, path)
    return 0 if all(row.status == "ok" for row in results.rows) else FAILED


def _print(console: Any, results: Results, path: Path) -> None:
    from .against_controls import verdicts
    from .tables import table

    console.print(table(results))
    for sentence in verdicts(results.rows):
        console.print(sentence, highlight=False)
    console.print(str(path), style="dim", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
