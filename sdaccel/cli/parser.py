"""The commands and their options, as argparse sees them. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import NoReturn

from ..errors import InputError
from . import bench, calibrate, compare, doctor, export, fidelity, generate, profile, report
from .exits import TABLE


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake as an `InputError`, not by leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} ({self.prog} --help lists what it takes)")


class Version(argparse.Action):
    """Print the installed version and leave; the metadata is read only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib import metadata

        try:
            version = metadata.version("sdaccel")
        except metadata.PackageNotFoundError:
            version = "(a checkout that is not installed)"
        print(f"sdaccel {version}")
        parser.exit()


def build_parser() -> Parser:
    """The parser of all commands; the parsed options carry the command to run as `run`."""
    parser = Parser(
        prog="sdaccel",
        description="Draw with diffusers pipelines, accelerated, and see what was done to them.",
        epilog=TABLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (generate, doctor, report, fidelity, compare, calibrate, export, bench, profile):
        name = command.__name__.rpartition(".")[2]
        summary = str(command.__doc__).splitlines()[0]
        _, _, summary = summary.partition(": ")
        sub = commands.add_parser(
            name,
            help=summary.rstrip("."),
            description=summary[0].upper() + summary[1:],
            epilog=TABLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_options(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=command.run)
    return parser
