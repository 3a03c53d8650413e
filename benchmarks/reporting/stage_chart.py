"""Where the time goes: the stages of a picture, beside each other for every rung."""

from __future__ import annotations

from collections.abc import Sequence

from ..selection import Entry
from . import wording
from .drawing import Spec, altair, data, spec

_STEP = 28
_COLOURS = ("#12a594", "#7b7fd4", "#d9902f", "#3b8ed0", "#e5674d", "#8b909a", "#b45fa8", "#7a9a3c")


def stage_chart(entries: Sequence[Entry]) -> Spec | None:
    """Stacked bars of one workload, a rung each; None where no row has stages."""
    parts = [
        {
            "rung": wording.label(each.row),
            "stage": stage,
            "seconds": seconds,
            "time": wording.seconds(seconds),
            "of": f"{seconds / sum(each.stages.values()):.0%}",
        }
        for each in sorted(entries, key=lambda each: sum(each.stages.values()))
        if each.row.status == "ok"
        for stage, seconds in each.stages.items()
    ]
    if not parts:
        return None
    alt = altair()
    stages = list(dict.fromkeys(str(part["stage"]) for part in parts))
    scale = alt.Scale(
        domain=stages, range=[_COLOURS[i % len(_COLOURS)] for i in range(len(stages))]
    )
    chart = (
        alt.Chart(data(parts))
        .mark_bar(size=16)
        .encode(
            x=alt.X("seconds:Q", title="seconds", stack="zero", axis=alt.Axis(tickCount=5)),
            y=alt.Y("rung:N", title=None, sort=None),
            color=alt.Color("stage:N", scale=scale, legend=alt.Legend()),
            order=alt.Order("position:Q"),
            tooltip=["rung:N", "stage:N", "time:N", "of:N"],
        )
        .transform_calculate(position=f"indexof({stages!r}, datum.stage)")
    )
    return spec(chart, _STEP * len({part["rung"] for part in parts}))
