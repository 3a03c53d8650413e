"""What `sdaccel compare` found: as a table, in sentences, as plain values, as a row, as a sheet."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..passes import Effect

if TYPE_CHECKING:
    from rich.table import Table

    from ..plan import Plan
    from ..quality.comparing import Comparison, Measured
    from ..quality.gates import Verdict
    from ..quality.metrics import Drawing
    from ..report import Report
    from .paired_drawing import Task
    from .request import Request

STOCK = "stock"


@dataclass(frozen=True)
class Side:
    """One plan, what it drew, and what its passes did."""

    plan: Plan
    drawings: list[Drawing]
    report: Report

    @property
    def name(self) -> str:
        """The plan's name, "stock" for the empty one."""
        return str(self.plan) if self.plan.passes else STOCK


@dataclass(frozen=True)
class Outcome:
    """All about one comparison; `source` says where its prompts came from."""

    model: str
    dtype: str
    source: str
    task: Task
    first: Side
    second: Side
    comparison: Comparison
    verdict: Verdict

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both plans' sides, the judged one second."""
        return self.first, self.second

    @property
    def effect(self) -> str:
        """The stronger effect of both plans."""
        return stronger_effect(self.first.plan, self.second.plan)


def stronger_effect(first: Plan, second: Plan) -> str:
    """What two plans together do to the result, by the one that does more."""
    return max(first.effect, second.effect, key=list(Effect).index).value


def table(outcome: Outcome) -> Table:
    """A row a metric; of a score, both plans' means, and the interval and worst of the change."""
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{outcome.second.name} beside {outcome.first.name}")
    grid = Table(title=title, title_justify="left")
    for column in ("metric", "mean", "95% interval", "worst", "at", "gate"):
        grid.add_column(column, justify="left" if column in ("metric", "gate") else "right")
    for name, measured in outcome.comparison.measured.items():
        found = outcome.verdict.of_metric(name)
        failed = any(not each.passed for each in found)
        limits = ", ".join(f"{each.limit.statistic} {each.limit.bound}" for each in found)
        grid.add_row(
            f"{name}, {measured.metric.unit}" if measured.metric.unit else name,
            *_figures(measured),
            f"{'FAILED' if failed else 'passed'}: {limits}" if found else "",
            style="red" if failed else None,
        )
    return grid


def sentences(outcome: Outcome) -> list[str]:
    """Which prompts were worst, what was not measured and why, and the verdict with its reasons."""
    comparison, verdict = outcome.comparison, outcome.verdict
    passes = "passes" if verdict.passed else "FAILS"
    return [
        *_worst(comparison),
        *(f"{name} was skipped: {reason}" for name, reason in comparison.skipped.items()),
        *_unjudged(comparison),
        *(f"{side.name}: {event}" for side in outcome.sides for event in side.report.events),
        f"{outcome.second.name} {passes} the gate '{verdict.gate}'",
        *(f"  {reason}" for reason in verdict.reasons),
    ]


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """Plain values; a number that is infinite or NaN is null."""
    comparison, task = outcome.comparison, outcome.task
    return {
        "model": outcome.model,
        "plans": [side.name for side in outcome.sides],
        "prompts": outcome.source,
        "count": len(task.prompts),
        **_settings(task.request),
        "measured": {
            name: {**_plain(each), "worst_prompt": comparison.prompts[each.summary.worst_at]}
            for name, each in comparison.measured.items()
        },
        "skipped": comparison.skipped,
        "faults": [
            {
                "prompt": comparison.prompts[each.index],
                "plan": outcome.sides[each.second].name,
                "reason": each.reason,
            }
            for each in comparison.faults
        ],
        "gate": outcome.verdict.to_dict(),
        "reports": [side.report.to_dict() for side in outcome.sides],
    }


def write_row(outcome: Outcome, folder: Path) -> Path:
    """Write what was found as a row of benchmark results, pictures beside it; returns the file."""
    from ..benchmarks.quality_rows import QualityRow, write
    from ..benchmarks.rungs import state_of
    from .picture_strips import write_strips

    second, verdict, values = outcome.second, outcome.verdict, to_dict(outcome)
    row = QualityRow(
        workload=f"compare-{_slug(outcome.model)}-{_slug(second.name)}",
        rung=second.name,
        kind="quality",
        effect=outcome.effect,
        unit="picture",
        status="ok" if verdict.passed else "wrong",
        reason="; ".join(verdict.reasons),
        dtype=outcome.dtype,
        quality=_quality(outcome.comparison),
        passes={record.name: state_of(record) for record in second.report.passes},
        settings={
            **{key: values[key] for key in ("model", "prompts", "count")},
            **_settings(outcome.task.request),
        },
        against=outcome.first.name,
        **{key: values[key] for key in ("measured", "skipped", "gate")},
    )
    return write(row, folder, lambda stem: write_strips(outcome, stem))


def write_sheet(outcome: Outcome, path: Path) -> Path:
    """Write the contact sheet; returns its whole path."""
    from .contact_sheet import Column, compose

    first, second = outcome.sides
    columns = [
        Column(above.pixels, below.pixels, caption(outcome, index))
        for index, (above, below) in enumerate(zip(first.drawings, second.drawings, strict=True))
    ]
    request, verdict = outcome.task.request, outcome.verdict
    heading = (
        f"{outcome.model}: {first.name} above, {second.name} below, {request.step_count} steps, "
        f"seed {request.seed}; gate '{verdict.gate}' {'passed' if verdict.passed else 'FAILED'}"
    )
    compose(columns, (first.name, second.name), heading).save(path)
    return path.resolve()


def _settings(request: Request) -> dict[str, Any]:
    """What was asked for, the number of steps in any case."""
    asked = {
        "guidance_scale": request.guidance_scale,
        "size": request.size,
        "num_frames": request.num_frames,
    }
    given = {key: value for key, value in asked.items() if value is not None}
    return {"steps": request.step_count, "seed": request.seed, **given}


def _worst(comparison: Comparison) -> list[str]:
    """The prompts that the table's numbers stand for."""
    worst_of: dict[int, list[str]] = {}
    for name, measured in comparison.measured.items():
        if math.isfinite(measured.summary.mean):
            worst_of.setdefault(measured.summary.worst_at, []).append(name)
    return [
        f"#{index + 1} (worst {', '.join(names)}): {comparison.prompts[index]}"
        for index, names in sorted(worst_of.items())
    ]


def _unjudged(comparison: Comparison) -> list[str]:
    return [
        f"{name}: {measured.unjudged} of {len(comparison.prompts)} prompts are not in the grammar "
        "that the checker knows, and count nowhere"
        for name, measured in comparison.measured.items()
        if measured.unjudged
    ]


def _figures(measured: Measured) -> tuple[str, str, str, str]:
    """Mean, interval, worst value and its pair's number."""
    summary, means = measured.summary, measured.means()
    if math.isinf(summary.mean):
        return "all identical", "", "", ""
    some = f" ({summary.identical} identical)" if summary.identical else ""
    mean, change = f"{summary.mean:.4g}{some}", ""
    if means is not None:
        mean, change = f"{means[0]:.4g} to {means[1]:.4g}", "change "
    interval = f"{change}{summary.low:.4g} to {summary.high:.4g}"
    return mean, interval, f"{change}{summary.worst:.4g}", f"#{summary.worst_at + 1}"


def _plain(measured: Measured) -> dict[str, Any]:
    means = measured.means()
    scores = {} if means is None else {"mean_of_first": means[0], "mean_of_second": means[1]}
    return {
        "unit": measured.metric.unit,
        "higher_is_better": measured.metric.higher_is_better,
        **measured.summary.to_dict(),
        **{key: value if math.isfinite(value) else None for key, value in scores.items()},
        "unjudged": measured.unjudged,
    }


def _quality(comparison: Comparison) -> dict[str, float]:
    """The figures that the tables of the benchmarks show: mean PSNR, and the second's fidelity."""
    from ..quality.metrics import FIDELITY, PSNR
    from ..shapes.fidelity import Fidelity

    found: dict[str, float] = {}
    psnr, fidelity = (comparison.measured.get(name) for name in (PSNR, FIDELITY))
    if psnr is not None and math.isfinite(psnr.summary.mean):
        found["psnr"] = psnr.summary.mean
    if fidelity is not None and fidelity.scores is not None:
        shown = [each for each in fidelity.scores[1] if each is not None]
        share = Fidelity(int(sum(shown)), len(shown))
        found |= {"fidelity": share.share, "fidelity_low": share.low, "fidelity_high": share.high}
        found["prompts"] = len(shown)
    return found


def caption(outcome: Outcome, index: int) -> str:
    """A pair's number and prompt, how far it is apart, and what is wrong with either."""
    from ..quality.metrics import FIDELITY, PSNR

    comparison, sides = outcome.comparison, outcome.sides
    lines = [f"#{index + 1} {comparison.prompts[index]}"]
    if PSNR in comparison.measured:
        value = comparison.measured[PSNR].values[index]
        lines.append("identical" if value == math.inf else f"PSNR {value:.1f} dB")
    fidelity = comparison.measured.get(FIDELITY)
    if fidelity is not None and fidelity.scores is not None:
        for side, scores in zip(sides, fidelity.scores, strict=True):
            if scores[index] == 0:
                lines.append(f"{side.name} doesn't show it")
    for each in comparison.faults:
        if each.index == index:
            lines.append(f"{sides[each.second].name} {each.reason}")
    return "\n".join(lines)


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
