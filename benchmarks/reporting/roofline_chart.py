"""The roofline (Williams, Waterman and Patterson 2009): rates under the measured ceilings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..rows import Row
from ..selection import Entry
from . import wording
from .drawing import DTYPES, Spec, altair, data, decades, role_colour, spec

_HEIGHT = 320


def roofline_chart(entries: Sequence[Entry]) -> Spec | None:
    """Rows with FLOPs and bytes: FLOP/s over FLOPs a byte, log-log; None where there are none.

    A ceiling is the slope of the copy up to the ridge, and then the matmul of that dtype, both the
    best that was measured beside these rows.
    """
    points = [point for each in entries if (point := _point(each)) is not None]
    if not points:
        return None
    alt = altair()
    log = alt.Scale(type="log", nice=False, padding=16)
    roofs = _ceilings(entries, points)
    across, up = ([each[name] for each in (*points, *roofs)] for name in ("intensity", "rate"))
    bottom = alt.Axis(format="~g", values=decades(across))
    left = alt.Axis(format="~s", values=decades(up))
    x = alt.X("intensity:Q", scale=log, title="FLOPs a byte", axis=bottom)
    y = alt.Y("rate:Q", scale=log, title="FLOP/s", axis=left)
    roof = (
        alt.Chart(data(roofs))
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, stroke=_dtype_colour(alt), detail="dtype:N", tooltip="name:N")
    )
    tips = ["op:N", "case:N", "rung:N", "FLOP/s:N", "share:N", "median:N"]
    marks = (
        alt.Chart(data(points))
        .mark_point(filled=True, size=80, opacity=0.85)
        .encode(
            x=x,
            y=y,
            color=role_colour(),
            shape=alt.Shape("op:N"),
            tooltip=tips,
        )
    )
    return spec(alt.layer(roof, marks), _HEIGHT)


def ceiling_chart(entries: Sequence[Entry]) -> Spec | None:
    """Rows whose FLOPs are known: their rate as a share of torch's own matmul in that dtype."""
    shares = [
        {
            "workload": each.row.workload + (" (quick)" if each.row.quick else ""),
            "rung": wording.label(each.row),
            "role": wording.role(each.row),
            "share": each.row.matmul_share,
            "FLOP/s": wording.flops_rate(_rate(each.row)),
            "median": wording.seconds(each.row.median),
        }
        for each in entries
        if each.row.status == "ok" and each.row.matmul_share
    ]
    if not shares:
        return None
    alt = altair()
    tips = [alt.Tooltip("share:Q", format=".0%"), "workload:N", "rung:N", "FLOP/s:N", "median:N"]
    x = alt.X("share:Q", axis=alt.Axis(format="%", tickCount=5), title="of torch's own matmul")
    marks = (
        alt.Chart(data(shares))
        .mark_point(filled=True, size=90, opacity=0.85)
        .encode(
            x=x,
            y=alt.Y("workload:N", title=None, sort=None, axis=alt.Axis(grid=True)),
            color=role_colour(),
            tooltip=tips,
        )
    )
    whole = alt.Chart(data([{"one": 1}])).mark_rule(strokeDash=[3, 3]).encode(x="one:Q")
    return spec(alt.layer(marks, whole), _STEP * len({each["workload"] for each in shares}))


_STEP = 30


def _dtype_colour(alt: Any) -> Any:
    scale = alt.Scale(domain=list(DTYPES), range=list(DTYPES.values()))
    return alt.Stroke("dtype:N", scale=scale, legend=None)


def _rate(row: Row) -> float | None:
    return row.flops / row.median if row.flops and row.median else None


def _point(entry: Entry) -> dict[str, Any] | None:
    row, amount = entry.row, entry.raw.get("bytes")
    rate = _rate(row)
    if row.status != "ok" or rate is None or not amount or not row.flops:
        return None
    share = entry.raw.get("share")
    case = f"{entry.raw.get('model', '')} {entry.raw.get('case', '')}".strip()
    return {
        "op": row.workload,
        "case": case,
        "rung": wording.label(row),
        "role": wording.role(row),
        "dtype": wording.dtype(row),
        "intensity": row.flops / amount,
        "rate": rate,
        "FLOP/s": wording.flops_rate(rate),
        "share": "" if share is None else f"{share:.0%} of the {entry.raw['bound']} ceiling",
        "median": wording.seconds(row.median),
    }


def _ceilings(entries: Sequence[Entry], points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The corners of each dtype's roof, over the intensities that occur."""
    dtypes = {point["dtype"] for point in points}
    reach = [point["intensity"] for point in points]
    copies = [each.row.copy_ceiling for each in entries if each.row.copy_ceiling]
    if not copies:
        return []
    copy, found = max(copies), []
    for dtype in sorted(dtypes):
        matmuls = [
            each.row.matmul_ceiling
            for each in entries
            if each.row.matmul_ceiling and wording.dtype(each.row) == dtype
        ]
        if not matmuls:
            continue
        matmul = max(matmuls)
        ridge = matmul / copy
        corners = sorted({min(*reach, ridge) / 2, ridge, max(*reach, ridge) * 2})
        name = f"{dtype}: matmul {wording.flops_rate(matmul)}, copy {wording.copy_rate(copy)}"
        found += [
            {"dtype": dtype, "name": name, "intensity": at, "rate": min(matmul, at * copy)}
            for at in corners
        ]
    return found
