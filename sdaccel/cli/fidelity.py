"""sdaccel fidelity: measure how often a model draws what the prompt says, stock and accelerated."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..accelerate import accelerate
from ..accelerate import report as report_on
from ..errors import InputError
from ..plan import Plan
from . import models
from .request import Request

if TYPE_CHECKING:
    from ..shapes.fidelity import Fidelity
    from .terminal import Terminal


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel fidelity` takes."""
    models.add_options(parser, plan=None)
    parser.add_argument("-n", "--count", type=int, default=500, metavar="N", help="prompts (500)")
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="denoising steps (those the model is made for, else 25)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first picture (0)")


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Draw the held-out prompts with stock, then from the same noise with the plan, if any."""
    if options.count < 1:
        raise InputError(f"count must be a whole number of at least 1, not {options.count}.")
    defaults = models.call_defaults(options.model)
    prompt = "a prompt of the scene grammar"
    request = Request(prompt, steps=options.steps, seed=options.seed, defaults=defaults)
    options.steps = request.step_count
    plan = Plan.of(options.plan)
    with terminal.step(f"loading {options.model}", spinner=False):
        pipe = models.load(options.model, options.dtype)
    found: dict[str, Any] = {"model": options.model, "count": options.count, "steps": options.steps}
    found["stock"] = _measure(pipe, "stock", options, terminal)
    if plan.passes:
        with terminal.step(f"accelerating with plan {plan}"):
            accelerate(pipe, plan, strict=options.strict)
        found["plan"] = str(plan)
        found["accelerated"] = _measure(pipe, f"plan {plan}", options, terminal)
        found["report"] = report_on(pipe).to_dict()
        terminal.say("the same prompts and the same noise in both")
    return found


def _measure(
    pipe: Any, name: str, options: argparse.Namespace, terminal: Terminal
) -> dict[str, Any]:
    from ..shapes.fidelity import prompt_fidelity

    settings = models.call_defaults(options.model)
    measured = prompt_fidelity(
        pipe, count=options.count, steps=options.steps, seed=options.seed, **settings
    )
    terminal.say(f"{name}: {measured}")
    return _plain(measured)


def _plain(measured: Fidelity) -> dict[str, Any]:
    return {
        "passed": measured.passed,
        "total": measured.total,
        "share": measured.share,
        "low": measured.low,
        "high": measured.high,
        "failures": measured.parts,
    }
