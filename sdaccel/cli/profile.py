"""sdaccel profile: show where a model's time goes, operator by operator, and what bounds it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..accelerate import accelerated
from ..errors import InputError
from ..plan import Plan
from . import models

if TYPE_CHECKING:
    from rich.table import Table

    from ..benchmarks.operations import Operation, Profile
    from ..benchmarks.workloads import Workload
    from .terminal import Terminal

_SHOWN = 20
_WIDTH = 24
_ATTENTION = "_scaled_dot_product_"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel profile` takes."""
    add = parser.add_argument
    add(
        "workload",
        nargs="?",
        default=models.DEFAULT,
        metavar="WORKLOAD",
        help="a workload of the benchmarks (sd15-unet, flux-dev, ...), a hub id, a folder or a "
        f"file ({models.DEFAULT})",
    )
    add("--quick", action="store_true", help="the scaled-down workload")
    add("--plan", default="none", metavar="P", help="a plan that compiles nothing (none)")
    add("--dtype", choices=models.DTYPES, help="cast the networks to it (default: float32)")
    add("--shapes", action="store_true", help="a line for each shape of an operator's inputs")
    add("--top", type=int, default=_SHOWN, metavar="N", help=f"how many lines ({_SHOWN})")


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Build, accelerate, watch one call, and tell."""
    plan = _checked(options)
    workload = _workload(options.workload, options.quick)
    with terminal.step(f"building {workload.label}", spinner=False):
        pipe = _built(workload, options.dtype)
    with accelerated(pipe, plan), terminal.step(f"watching one {workload.unit}"):
        found = _profile(pipe, workload)
    operations = list(found.operations) if options.shapes else found.by_operator()
    terminal.say(table(operations[: options.top], found), *sentences(found, workload))
    return {
        "workload": workload.name,
        "quick": workload.quick,
        "plan": plan.to_dict(),
        "seconds": found.seconds,
        "bound_seconds": dict(found.bound_seconds()),
        "operations": [each.to_dict() for each in operations],
    }


def _checked(options: argparse.Namespace) -> Plan:
    """The plan; raises `InputError` for one that compiles, and for no lines at all."""
    if options.top < 1:
        raise InputError(f"--top must be at least 1, not {options.top}.")
    plan = Plan.of(options.plan)
    if "compile" in plan:
        raise InputError(
            "What a compiler makes of a model can't be watched operator by operator: take "
            f"--plan {plan.without('compile')}."
        )
    return plan


def _workload(name: str, quick: bool) -> Workload:
    """The workload; raises `InputError` where there is none."""
    from ..benchmarks.errors import BenchmarkError
    from ..benchmarks.workloads import workload

    try:
        return workload(name, quick)
    except BenchmarkError as error:
        raise InputError(str(error)) from error


def _built(workload: Workload, dtype: str | None) -> Any:
    pipe = workload.built()
    if dtype is not None:
        import torch

        pipe.to(getattr(torch, dtype))
    return pipe


def _profile(pipe: Any, workload: Workload) -> Profile:
    from ..benchmarks.operations import profile

    return profile(workload.prepare(pipe), pipe.device)


def table(operations: list[Operation], found: Profile) -> Table:
    """The operators and their figures, in 80 columns."""
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("operator", min_width=_WIDTH, overflow="fold")
    for title in ("calls", "ms", "time", "GFLOP", "MB", "matmul", "copy"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("bound", no_wrap=True)
    total = sum(each.seconds for each in found.operations)
    for each in operations:
        shapes = " ".join("x".join(map(str, shape)) for shape in each.shapes[:3])
        grid.add_row(
            f"{each.name.removeprefix(_ATTENTION)} {shapes}".strip(),
            str(each.calls),
            _short(each.seconds * 1e3),
            f"{each.seconds / total:.0%}" if total else "",
            _short(each.flops / 1e9) if each.flops else "",
            _short(each.bytes / 1e6),
            f"{each.matmul_share:.0%}" if each.flops else "",
            f"{each.copy_share:.0%}",
            each.bound,
        )
    return grid


def _short(value: float) -> str:
    """Two digits after the point of small numbers, one of others, none of large ones."""
    return f"{value:.{2 if value < 1 else 1 if value < 100 else 0}f}"


def sentences(found: Profile, workload: Workload) -> list[str]:
    """What the table adds up to."""
    total = sum(each.seconds for each in found.operations)
    flops = sum(each.flops for each in found.operations)
    moved = sum(each.bytes for each in found.operations)
    bound = found.bound_seconds()
    return [
        f"One {workload.unit} of {workload.label} takes {found.seconds * 1e3:.1f} ms unwatched, "
        f"its operators {total * 1e3:.1f} ms watched: {flops / 1e9:.1f} GFLOP, "
        f"{moved / 1e6:.0f} MB.",
        f"Bound by compute {bound['compute'] * 1e3:.1f} ms, by memory {bound['memory'] * 1e3:.1f} "
        "ms. The columns matmul and copy are shares of the ceilings measured here.",
    ]
