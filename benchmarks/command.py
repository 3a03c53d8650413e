"""What `python -m sdaccel.benchmarks` takes, and how it is passed on to a process of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import overheads, text_encoders, workloads
from .ladder import Options
from .rungs import DEFAULT, QUICK
from .shifts import FEWEST_PAIRS

ALL = "all"
_SELF_TEST_ROUNDS = 20
_PROMPTS, _QUICK_PROMPTS = 16, 4


def parser() -> argparse.ArgumentParser:
    """The options of a measurement."""
    made = argparse.ArgumentParser(
        prog="python -m sdaccel.benchmarks",
        description="Time workloads, stock and accelerated in turns; rows land in a JSON file. "
        "`show FILE...` prints them again, with --markdown as a table for a README; `self-test` "
        "puts the harness itself to the test.",
    )
    add = made.add_argument
    usual = [*workloads.DEFAULT, overheads.NAME]
    add("--workload", nargs="+", metavar="NAME", help=f"{', '.join(usual)} (the default), or all")
    add("--model", nargs="+", default=[], metavar="MODEL", help="a hub id, a folder or a file")
    add(
        "--text-encoders", action="store_true", help="the text encoders of published models as well"
    )
    add("--rungs", nargs="+", metavar="RUNG", help=f"{', '.join(DEFAULT)}, a plan, fewer-steps-N")
    add("--peers", action="store_true", help="every peer as well")
    add("--each-pass", metavar="PLAN", help="the passes of a plan as well, added one at a time")
    add("--frontier", action="store_true", help="several approximate settings, and their controls")
    add("--repeats", type=_count, default=6, metavar="N", help="timed samples a rung (6)")
    add(
        "--quick",
        action="store_true",
        help="scaled-down workloads, labelled as such: rungs that compile nothing, all in every "
        f"round, {_QUICK_PROMPTS} prompts, no memory alone, unless asked for",
    )
    add("--output", type=Path, default=Path("benchmarks/results"), metavar="FOLDER")
    add("--prompts", type=_whole, metavar="N", help=f"to judge pictures by ({_PROMPTS}; 0: none)")
    add("--budget", type=_count, default=10**9, metavar="SECONDS", help="begin no rung after that")
    add("--together", action="store_true", help="all rungs in every round (takes memory)")
    add("--no-memory", action="store_true", help="leave out the memory of each rung alone")
    add("--no-stages", action="store_true", help="leave out where a generation's time goes")
    add("--no-controls", action="store_true", help="leave out stock in fewer steps")
    return made


def self_test_parser() -> argparse.ArgumentParser:
    """The options of a self-test."""
    made = argparse.ArgumentParser(
        prog="python -m sdaccel.benchmarks self-test",
        description="Does the harness see what it must see, and nothing else? Exit code 1: no.",
    )
    made.add_argument("--workload", default="shapes-unet", metavar="NAME", help="(shapes-unet)")
    made.add_argument("--repeats", type=_six, default=_SELF_TEST_ROUNDS, metavar="N")
    return made


def workloads_of(options: argparse.Namespace) -> list[str]:
    """The workloads that were asked for, each once."""
    named = options.model or options.text_encoders
    given = options.workload or ([] if named else [*workloads.DEFAULT, overheads.NAME])
    if ALL in given:
        given = [*workloads.known_names(), overheads.NAME]
    encoders = text_encoders.TEXT_ENCODERS if options.text_encoders else ()
    return list(dict.fromkeys([*given, *encoders, *options.model]))


def rungs_of(options: argparse.Namespace) -> list[str]:
    """The rungs that were asked for by name."""
    from .peer_rungs import PEERS

    usual = QUICK if options.quick else DEFAULT
    given = options.rungs or ([] if options.each_pass or options.frontier else usual)
    return [*given, *([each.name for each in PEERS] if options.peers else [])]


def ladder_options(options: argparse.Namespace, deadline: float) -> Options:
    """How much to measure of a workload; all quick ones together are to take 20 minutes."""
    usual = _QUICK_PROMPTS if options.quick else _PROMPTS
    return Options(
        rounds=options.repeats,
        prompts=usual if options.prompts is None else options.prompts,
        memory=not (options.no_memory or options.quick),
        together=options.together or options.quick,
        stages=not options.no_stages,
        controls=not options.no_controls,
        deadline=deadline,
    )


def alone(name: str, options: argparse.Namespace, seconds: float) -> list[str]:
    """The arguments that measure one workload as all were asked for, within so many seconds."""
    values = {"repeats": options.repeats, "prompts": options.prompts, "output": options.output}
    values = {key: value for key, value in values.items() if value is not None}
    words = ["--workload", name, "--budget", str(max(1, round(seconds)))]
    for key, value in values.items():
        words += [f"--{key}", str(value)]
    words += ["--rungs", *options.rungs] if options.rungs else []
    words += ["--each-pass", options.each_pass] if options.each_pass else []
    flags = ("peers", "frontier", "quick", "together", "no_memory", "no_stages", "no_controls")
    return words + [f"--{flag.replace('_', '-')}" for flag in flags if getattr(options, flag)]


def _count(text: str) -> int:
    if _whole(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def _six(text: str) -> int:
    """Enough for an interval."""
    if _whole(text) < FEWEST_PAIRS:
        raise argparse.ArgumentTypeError(f"at least {FEWEST_PAIRS}: fewer have no interval")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)
