"""sdaccel report: say what a plan does to a model, pass by pass, without drawing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..accelerate import accelerate, restore
from ..accelerate import report as report_on
from ..plan import Plan
from . import models

if TYPE_CHECKING:
    from .terminal import Terminal


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel report` takes."""
    models.add_options(parser, plan="lossless")


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Accelerate, tell, restore."""
    plan = Plan.of(options.plan)
    with terminal.step(f"loading {options.model}", spinner=False):
        pipe = models.load(options.model, options.dtype)
    with terminal.step(f"accelerating with plan {plan}"):
        accelerate(pipe, plan, strict=options.strict)
    report = report_on(pipe)
    restore(pipe)
    terminal.say(f"plan {plan}: {plan.effect}", report)
    return {
        "model": options.model,
        "plan": plan.to_dict(),
        "effect": plan.effect.value,
        "report": report.to_dict(),
    }
