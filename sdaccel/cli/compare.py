"""sdaccel compare: judge a plan by its pictures, beside another plan's from the same noise."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..accelerate import accelerated
from ..accelerate import report as report_on
from ..errors import GateError, InputError
from ..plan import Plan
from . import embedded, models, pictures, prompts
from .compare_report import (
    STOCK,
    Outcome,
    Side,
    sentences,
    stronger_effect,
    table,
    to_dict,
    write_row,
    write_sheet,
)
from .limits import frames_argument
from .paired_drawing import Task
from .request import Request, parse_size

if TYPE_CHECKING:
    from ..quality.comparing import Comparison
    from ..quality.gates import Verdict
    from ..quality.metrics import Metric
    from .terminal import Terminal


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel compare` takes."""
    parser.add_argument("first", metavar="PLAN_A", help="the plan to hold it against: stock, ...")
    parser.add_argument(
        "second",
        metavar="PLAN_B",
        help="the plan to judge: lossless, onnxruntime[folder=F,precision=int8]",
    )
    models.add_model_options(parser)
    add = parser.add_argument
    add("--prompts", type=Path, metavar="FILE", help="one a line (an embedded model has its own)")
    add("--evaluation", action="store_true", help="the prompts that no tuning may ever see")
    add("-n", dest="count", type=int, metavar="N", help="how many prompts (32, or all in FILE)")
    add("--steps", type=int, metavar="N", help="denoising steps (the model's own number, or 25)")
    add("--seed", type=int, metavar="N", help="of the first picture (0; --evaluation has its own)")
    add("--guidance-scale", type=float, metavar="X", help="the model's own default")
    add("--size", type=parse_size, metavar="WxH", help="in pixels: 512 or 768x512")
    add("--num-frames", type=int, metavar="N", help="of a clip (the model's own number)")
    add("--batch", type=int, metavar="N", help="prompts at once (4; for videos 1)")
    add(
        *("-o", "--output"),
        type=Path,
        default=Path("sdaccel-sheet.png"),
        metavar="FILE",
        help="the contact sheet (sdaccel-sheet.png)",
    )
    add("--rows", type=Path, metavar="FOLDER", help="add a row of results: benchmarks/results")


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Draw with both plans, measure, show; raises `GateError` where the plan may not be used."""
    plans = [_plan(each) for each in (options.first, options.second)]
    chosen = prompts.choose(options.model, options.prompts, options.evaluation, options.count)
    request = _request(options, chosen)
    _check_sheet(options.output)
    if options.rows is not None:
        _check_folder(options.rows)
    with terminal.step(f"loading {options.model}", spinner=False):
        pipe = models.load(options.model, options.dtype)
    request = replace(request, defaults=models.call_defaults(options.model))
    task = Task(tuple(chosen), request, options.batch)
    task.check(pipe)
    outcome = _compare(pipe, task, plans, options, terminal)
    return _tell(outcome, options.output, options.rows, terminal)


def _plan(asked: str) -> Plan:
    from ..benchmarks.plan_options import plan_of

    return Plan.of(None) if asked == STOCK else plan_of(asked)


def _compare(
    pipe: Any, task: Task, plans: list[Plan], options: argparse.Namespace, terminal: Terminal
) -> Outcome:
    """Draw with both plans, and measure."""
    first, second = (_draw(pipe, plan, task, options.strict, terminal) for plan in plans)
    metrics = _metrics(options.model, frames_argument(pipe) is not None)
    comparison = _measure(first, second, task, metrics, terminal)
    dtype = str(pipe.dtype).removeprefix("torch.")
    return Outcome(
        model=options.model,
        dtype=dtype,
        source=_source(options),
        task=task,
        first=first,
        second=second,
        comparison=comparison,
        verdict=_judge(comparison, first, second, dtype),
    )


def _request(options: argparse.Namespace, chosen: list[str]) -> Request:
    """The first drawing, with as many seeds as there are prompts; raises `InputError`."""
    if options.batch is not None and options.batch < 1:
        raise InputError(f"batch must be a whole number of at least 1, not {options.batch}.")
    first = prompts.EVALUATION_SEED if options.evaluation else 0
    return Request(
        prompt=chosen[0],
        steps=options.steps,
        seed=first if options.seed is None else options.seed,
        num_images=len(chosen),
        guidance_scale=options.guidance_scale,
        size=options.size,
        num_frames=options.num_frames,
    )


def _source(options: argparse.Namespace) -> str:
    """Where the prompts came from."""
    if options.prompts is not None:
        return str(options.prompts.name)
    return "evaluation" if options.evaluation else "held-out"


def _check_sheet(path: Path) -> None:
    """Raise `InputError` where no contact sheet could be written."""
    pictures.check_output(path)
    if path.suffix.lower() not in pictures.PICTURES:
        raise InputError(
            f"A contact sheet is a picture, and '{path}' names none: let it end in "
            f"{', '.join(pictures.PICTURES)}."
        )


def _check_folder(folder: Path) -> None:
    """Raise `InputError` where no row could be written."""
    above = next(each for each in (folder, *folder.resolve().parents) if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"No row can be written to '{folder}': choose another --rows.")


def _draw(pipe: Any, plan: Plan, task: Task, strict: bool, terminal: Terminal) -> Side:
    """One side; the pipe is as it was afterwards."""
    name = f"plan {plan}" if plan.passes else STOCK
    with (
        terminal.step(f"drawing {len(task.prompts)} with {name}", spinner=False),
        accelerated(pipe, plan, strict=strict),
    ):
        return Side(plan, task.draw(pipe, name), report_on(pipe))


def _metrics(model: str, clips: bool) -> list[Metric]:
    """The distances, and the scores that make sense for this model's pictures."""
    from ..quality.metrics import learned_scores, metrics, prompt_fidelity

    if not models.is_embedded(model):
        return [*metrics(clips=clips), *learned_scores()]
    return [*metrics(clips=clips), prompt_fidelity(embedded.shows(model))]


def _measure(
    first: Side, second: Side, task: Task, metrics: Sequence[Metric], terminal: Terminal
) -> Comparison:
    from tqdm import tqdm

    from ..quality.comparing import Pair, compare

    drawn = zip(task.prompts, first.drawings, second.drawings, strict=True)
    pairs = [Pair(*each) for each in drawn]
    with terminal.step("measuring", spinner=False), tqdm(total=len(metrics), leave=False) as bar:

        def tell(name: str) -> None:
            bar.set_description(name)
            bar.update()

        return compare(pairs, metrics, tell)


def _judge(comparison: Comparison, first: Side, second: Side, dtype: str) -> Verdict:
    """The verdict of the gate for the stronger effect of both plans.

    A plan that ended in NaN or Inf, and drew again without some passes, fails: it wasn't judged.
    """
    from ..quality.gates import gate_for

    effect = stronger_effect(first.plan, second.plan)
    verdict = gate_for(effect, sixteen_bit=dtype != "float32").judge(comparison)
    given_up = [side for side in (first, second) if side.report.plan != str(side.plan)]
    events = (event for side in given_up for event in side.report.events)
    return replace(verdict, reasons=(*verdict.reasons, *events))


def _tell(outcome: Outcome, sheet: Path, rows: Path | None, terminal: Terminal) -> dict[str, Any]:
    """Write the sheet and the row, print the table, and give what was found as plain values."""
    result = {**to_dict(outcome), "sheet": str(write_sheet(outcome, sheet))}
    terminal.say(outcome.second.report, table(outcome), *sentences(outcome), result["sheet"])
    if rows is not None:
        result["row"] = str(write_row(outcome, rows))
        terminal.say(result["row"])
    if not outcome.verdict.passed:
        raise GateError(
            f"{outcome.second.name} fails the gate '{outcome.verdict.gate}': "
            f"{outcome.verdict.reasons[0]}.",
            result,
        )
    return result
