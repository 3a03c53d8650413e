"""Speed against quality: what each rung pays for being fast, and which are not beaten in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..rows import Row
from ..selection import Entry
from . import wording
from .drawing import Spec, altair, data, role_colour, spec

_HEIGHT = 260
_SMALLEST_ERROR = 1e-8

Measure = Callable[[Row], "float | None"]


def psnr_chart(entries: Sequence[Entry]) -> Spec | None:
    """PSNR against stock's picture; None where no row has both."""
    return _chart(entries, lambda row: row.quality.get("psnr"), "PSNR against stock, dB")


def fidelity_chart(entries: Sequence[Entry]) -> Spec | None:
    """The share of prompts that the picture shows, with its 95% interval."""
    title = "prompts that the picture shows, %"
    return _chart(entries, _share("fidelity"), title, _share("fidelity_low", "fidelity_high"))


def error_chart(entries: Sequence[Entry]) -> Spec | None:
    """Relative L2 error of one unit against stock in fp32, small errors above, stock left out."""
    title = "relative error against stock fp32"
    others = [each for each in entries if not (each.row.kind == "stock" and not each.row.error)]
    return _chart(others, lambda row: row.error, title, error=True)


def _share(*names: str) -> Any:
    def of(row: Row) -> Any:
        found = [row.quality.get(name) for name in names]
        shares = [None if each is None else each * 100 for each in found]
        return shares[0] if len(shares) == 1 else shares

    return of


def _chart(
    entries: Sequence[Entry],
    measure: Measure,
    title: str,
    interval: Callable[[Row], Any] | None = None,
    error: bool = False,
) -> Spec | None:
    points = [
        _point(each.row, measure(each.row), interval, error)
        for each in entries
        if each.row.status == "ok" and measure(each.row) is not None and _speed(each.row)
    ]
    if len({point["rung"] for point in points}) < 2:
        return None
    alt = altair()
    scale = (
        alt.Scale(type="log", reverse=True, domainMin=_SMALLEST_ERROR)
        if error
        else alt.Scale(zero=False, nice=True, padding=12)
    )
    axis = alt.Axis(format="~e", tickCount=5) if error else alt.Axis(tickCount=5)
    x = alt.X("speed:Q", title="times as fast as stock", scale=alt.Scale(zero=False, padding=18))
    y = alt.Y("value:Q", title=title, scale=scale, axis=axis)
    tips = [
        alt.Tooltip(f"{name}:N") for name in ("workload", "rung", "vs stock", "found", "median")
    ]
    base = alt.Chart(data(points)).encode(x=x, tooltip=tips)
    marks = base.mark_point(filled=True, size=110, opacity=0.9).encode(
        y=y,
        color=role_colour(),
        shape=alt.Shape("workload:N"),
    )
    edge = alt.Chart(data(_unbeaten(points, error)))
    line = edge.mark_line(strokeWidth=1.5, strokeDash=[4, 3], opacity=0.6).encode(
        x=x, y=y, detail="workload:N", order="speed:Q"
    )
    layers = [line, marks]
    if interval is not None:
        layers.insert(0, base.mark_rule(opacity=0.5).encode(y=alt.Y("low:Q"), y2="high:Q"))
    return spec(alt.layer(*layers), _HEIGHT)


def _point(
    row: Row, value: Any, interval: Callable[[Row], Any] | None, error: bool
) -> dict[str, Any]:
    low, high = (None, None) if interval is None else interval(row)
    return {
        "workload": row.workload + (" (quick)" if row.quick else ""),
        "rung": wording.label(row),
        "role": wording.role(row),
        "speed": _speed(row),
        "value": max(value, _SMALLEST_ERROR) if error else value,
        "low": low,
        "high": high,
        "vs stock": wording.factor(_speed(row)),
        "found": f"{value:.1e}" if error else f"{value:.4g}",
        "median": wording.seconds(row.median),
    }


def _speed(row: Row) -> float | None:
    return 1.0 if row.kind == "stock" and row.speedup is None else row.speedup


def _unbeaten(points: Sequence[dict[str, Any]], error: bool) -> list[dict[str, Any]]:
    """Those points of each workload that no other is better than in both."""
    sign = -1 if error else 1

    def beaten(point: dict[str, Any]) -> bool:
        return any(
            other["workload"] == point["workload"]
            and other["speed"] >= point["speed"]
            and sign * other["value"] >= sign * point["value"]
            and (other["speed"], other["value"]) != (point["speed"], point["value"])
            for other in points
        )

    return [point for point in points if not beaten(point)]
