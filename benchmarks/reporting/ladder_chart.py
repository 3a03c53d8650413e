"""Bars of speed-up over stock, a rung each: those that lose and those that failed stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..rows import Row
from ..selection import Entry
from . import wording
from .drawing import Spec, altair, data, role_colour, spec

_STEP = 28
_LETTERS = 29
_LABEL = (
    f"length(datum.label) > {_LETTERS} ? '…' + slice(datum.label, {1 - _LETTERS}) : datum.label"
)
"""Of a long name the end, which tells it from others."""
_ROOM = 1.5  # for the figure behind the longest bar, on a phone too


def ladder_chart(entries: Sequence[Entry], furthest: float) -> Spec:
    """One workload's rungs, the fastest first, on an axis that ends at `furthest`."""
    alt = altair()
    ordered = sorted((each.row for each in entries), key=_rank)
    base = alt.Chart(data(_bar(row) for row in ordered)).encode(
        y=alt.Y("rung:N", sort=None, title=None, axis=alt.Axis(labelExpr=_LABEL)),
        tooltip=[
            alt.Tooltip(f"{name}:N") for name in ("rung", "vs stock", "interval", "median", "note")
        ],
    )
    scale = alt.Scale(domain=[0, furthest * _ROOM])
    length = alt.X("speedup:Q", scale=scale, title="times as fast as stock", axis=_axis(alt))
    opacity = alt.condition("datum.noisy", alt.value(0.5), alt.value(1.0))
    bars = base.mark_bar(cornerRadiusEnd=3, size=16).encode(
        x=length, color=role_colour(), opacity=opacity
    )
    spread = base.mark_rule(strokeWidth=2, opacity=0.75).encode(x="low:Q", x2="high:Q")
    words = base.mark_text(align="left", dx=6, fontSize=12).encode(x="end:Q", text="text:N")
    stock = alt.Chart(data([{"one": 1}])).mark_rule(strokeDash=[3, 3]).encode(x="one:Q")
    chart = alt.layer(bars, spread, words, stock)
    return spec(chart, _STEP * len(ordered))


def furthest(entries: Sequence[Entry]) -> float:
    """The largest figure that an axis for these rows must hold."""
    return max(
        (max(_number(bar["speedup"]), _number(bar["high"])) for bar in _bars(entries)), default=1.0
    )


def _axis(alt: Any) -> Any:
    return alt.Axis(tickCount=5, grid=True)


def _bars(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [_bar(each.row) for each in entries]


def _bar(row: Row) -> dict[str, Any]:
    """What is drawn of a row."""
    speedup = 1.0 if row.kind == "stock" and row.speedup is None and row.seconds else row.speedup
    shown = speedup if row.status == "ok" else None
    low, high = (None, None) if shown is None else (row.speedup_low, row.speedup_high)
    text = row.status if shown is None else wording.factor(shown)
    return {
        "rung": wording.label(row),
        "role": wording.role(row),
        "speedup": shown,
        "low": low,
        "high": high,
        "end": max(_number(shown), _number(high)),
        "text": f"{text} !" if row.noisy and shown is not None else text,
        "noisy": bool(row.noisy),
        "vs stock": wording.factor(shown),
        "interval": "" if low is None else f"{low:.2f} to {high:.2f}",
        "median": wording.seconds(row.median if shown is not None else None),
        "note": wording.trouble(row) or ("noisy" if row.noisy else "; ".join(row.notes)),
    }


def _number(value: Any) -> float:
    return 0.0 if value is None else float(value)


def _rank(row: Row) -> tuple[bool, float]:
    """Measured before unmeasured, fast before slow."""
    speedup = _bar(row)["speedup"]
    return speedup is None, -_number(speedup)
