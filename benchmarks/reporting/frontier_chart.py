"""Speed against quality: what each rung pays for being fast, and which are not beaten in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..against_controls import HIGHEST_PSNR, is_control
from ..rows import Row
from ..selection import Entry
from . import wording
from .drawing import Spec, altair, data, role_colour, spec
from .labels import ASIDE, placed

_HEIGHT = 340
_SMALLEST_ERROR = 1e-8
LOWEST_PSNR = 30.0
"""Below which the axis begins at the latest, so that what nobody sees looks small."""
_ROOM = 2 * ASIDE
"""Pixels that a label may take: half of it fits beside the outermost points."""

Measure = Callable[[Row], "float | None"]
Point = dict[str, Any]


def psnr_chart(entries: Sequence[Entry]) -> Spec | None:
    """One workload's PSNR against stock's pictures; None where fewer than two rungs have it."""

    def of(name: str) -> Measure:
        return lambda row: _at_most(row.quality.get(name), HIGHEST_PSNR)

    title = f"PSNR against stock, dB (more than {HIGHEST_PSNR:.0f} drawn there)"
    ends = of("psnr_low"), of("psnr_high")
    return _labelled(entries, of("psnr"), ends, title, [LOWEST_PSNR, HIGHEST_PSNR])


def fidelity_chart(entries: Sequence[Entry]) -> Spec | None:
    """The share of prompts that one workload's pictures show, with its 95% interval."""

    def of(name: str) -> Measure:
        return lambda row: None if row.quality.get(name) is None else 100 * row.quality[name]

    ends = of("fidelity_low"), of("fidelity_high")
    return _labelled(entries, of("fidelity"), ends, "prompts that the picture shows, %", [])


def error_chart(entries: Sequence[Entry]) -> Spec | None:
    """Relative L2 error of one unit against stock in fp32, small errors above, stock left out."""
    others = [each for each in entries if not (each.row.kind == "stock" and not each.row.error)]
    points = _points(others, lambda row: row.error)
    for point in points:
        point.update(value=max(point["value"], _SMALLEST_ERROR), found=f"{point['value']:.1e}")
    if _too_few(points):
        return None
    alt = altair()
    scale = alt.Scale(type="log", reverse=True, domainMin=_SMALLEST_ERROR)
    y = alt.Y(
        "value:Q",
        title="relative error against stock fp32",
        scale=scale,
        axis=alt.Axis(format="~e", tickCount=5),
    )
    marks = _marks(points, y).encode(shape=alt.Shape("workload:N"))
    line = _line(unbeaten(points, "workload", sign=-1), y, "workload:N", [4, 3])
    return spec(alt.layer(line, marks), _HEIGHT)


def described(entries: Sequence[Entry]) -> str:
    """The points of a workload in words, for those who don't see the chart."""
    said = [
        f"{wording.label(row)} {wording.factor(_speed(row))}, {wording.quality(row)}"
        for row in sorted((each.row for each in entries), key=lambda row: _speed(row) or 0.0)
        if row.status == "ok" and wording.quality(row)
    ]
    return "; ".join(said)


def unbeaten(points: Sequence[Point], group: str, sign: int = 1) -> list[Point]:
    """Those points of each group that no other of it is better than in both speed and value."""

    def beaten(point: Point) -> bool:
        return any(
            other[group] == point[group]
            and other["speed"] >= point["speed"]
            and sign * other["value"] >= sign * point["value"]
            and (other["speed"], other["value"]) != (point["speed"], point["value"])
            for other in points
        )

    return [point for point in points if not beaten(point)]


def _labelled(
    entries: Sequence[Entry],
    measure: Measure,
    ends: tuple[Measure, Measure],
    title: str,
    shown: list[float],
) -> Spec | None:
    """Points with 95% intervals; a line through sdaccel's best, and one a family of controls.

    The axis shows at least the values `shown`. Plans on their line have their names, each family
    has one, and so have other peers; a tooltip has everybody's.
    """
    points = _points(entries, measure)
    if _too_few(points):
        return None
    for point, row in zip(points, _rows(entries, measure), strict=True):
        point.update(low=ends[0](row), high=ends[1](row), side=_side(row))
        point["family"] = wording.family(row)
    alt = altair()
    known = [each[name] for each in points for name in ("value", "low", "high")]
    all_shown = [*shown, *(each for each in known if each is not None)]
    domain = [min(all_shown), max(all_shown)]
    scale = alt.Scale(zero=False, nice=True, padding=14, domain=domain)
    y = alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))
    ours = unbeaten([each for each in points if each["side"] == "sdaccel"], "side")
    controls = unbeaten([each for each in points if each["side"] == "controls"], "family")
    names = _placed([*ours, *_others(points), *_ends(controls)], points, domain)
    valued, timed = _with(points, "low", "high"), _with(points, "slowest", "fastest")
    layers = {
        "controls": controls and _line(controls, y, "family:N", [4, 3]),
        "ours": ours and _line(ours, y, "side:N", [1, 0]),
        "values": valued and _spread(valued, y, "low", "high", upright=True),
        "speeds": timed and _spread(timed, y, "slowest", "fastest", upright=False),
        "marks": _marks(points, y),
        "leaders": (far := [each for each in names if each["far"]]) and _leaders(far, y),
        "names": names and _names(names, y),
    }
    drawn = [layer.properties(name=name) for name, layer in layers.items() if layer]
    return spec(alt.layer(*drawn), _HEIGHT)


def _others(points: Sequence[Point]) -> list[Point]:
    """Peers that are no controls: what they do is exact."""
    return [each for each in points if each["side"] == "others" and each["role"] == wording.PEER]


def _ends(controls: Sequence[Point]) -> list[Point]:
    """The fastest of each family, under the family's name where it has several."""
    families: dict[str, list[Point]] = {}
    for each in sorted(controls, key=lambda point: point["speed"]):
        families.setdefault(each["family"], []).append(each)
    return [
        {**found[-1], "label": name if len(found) > 1 else found[-1]["label"]}
        for name, found in families.items()
    ]


def _placed(
    named: Sequence[Point], points: Sequence[Point], domain: Sequence[float]
) -> list[Point]:
    """With the places of their labels: those of controls start below, others above."""
    speeds = [each["speed"] for each in points]
    ready = [{**each, "above": each["side"] != "controls"} for each in named]
    return placed(ready, points, [min(speeds), max(speeds)], domain)


def _with(points: Sequence[Point], *names: str) -> list[Point]:
    return [each for each in points if None not in [each[name] for name in names]]


def _side(row: Row) -> str:
    if is_control(row):
        return "controls"
    return "sdaccel" if row.kind == "plan" else "others"


def _marks(points: Sequence[Point], y: Any) -> Any:
    tips = [f"{name}:N" for name in ("workload", "rung", "vs stock", "found", "median")]
    marks = altair().Chart(data(points)).mark_point(filled=True, size=90, opacity=0.95)
    return marks.encode(x=_x(), y=y, tooltip=tips, color=role_colour())


def _line(points: Sequence[Point], y: Any, detail: str, dashes: list[int]) -> Any:
    line = altair().Chart(data(points)).mark_line(strokeWidth=1.5, opacity=0.7, strokeDash=dashes)
    return line.encode(x=_x(), y=y, detail=detail, order="speed:Q", color=role_colour())


def _spread(points: Sequence[Point], y: Any, low: str, high: str, upright: bool) -> Any:
    """Intervals of the value, or of the speed."""
    rules = altair().Chart(data(points)).mark_rule(opacity=0.45)
    if upright:
        return rules.encode(x=_x(), y=_at(y, low), y2=f"{high}:Q")
    return rules.encode(x=_at(_x(), low), x2=f"{high}:Q", y=y)


def _at(channel: Any, name: str) -> Any:
    """The same axis for another of a point's numbers."""
    found = channel.copy()
    found.shorthand = f"{name}:Q"
    return found


def _names(points: Sequence[Point], y: Any) -> Any:
    """Labels in their places."""
    words = altair().Chart(data(points)).mark_text(fontSize=11, limit=_ROOM, baseline="middle")
    x = _at(_x(), "across")
    return words.encode(x=x, y=_at(y, "place"), text="label:N", color=role_colour())


def _leaders(points: Sequence[Point], y: Any) -> Any:
    """Thin lines from points to labels that are not beside them."""
    rules = altair().Chart(data(points)).mark_rule(opacity=0.5, strokeWidth=0.8)
    ends = {"x2": "across:Q", "y2": "place:Q"}
    return rules.encode(x=_x(), y=y, color=role_colour(), **ends)


def _x() -> Any:
    alt = altair()
    scale = alt.Scale(zero=False, padding=ASIDE)
    return alt.X("speed:Q", title="times as fast as stock", scale=scale)


def _too_few(points: Sequence[Point]) -> bool:
    return len({point["rung"] for point in points}) < 2


def _rows(entries: Sequence[Entry], measure: Measure) -> list[Row]:
    rows = [each.row for each in entries if each.row.status == "ok"]
    return [row for row in rows if measure(row) is not None and _speed(row)]


def _points(entries: Sequence[Entry], measure: Measure) -> list[Point]:
    return [
        {
            "workload": row.workload + (" (quick)" if row.quick else ""),
            "rung": wording.label(row),
            "label": wording.short(row),
            "role": wording.role(row),
            "speed": _speed(row),
            "slowest": row.speedup_low,
            "fastest": row.speedup_high,
            "value": measure(row),
            "vs stock": wording.factor(_speed(row)),
            "found": f"{measure(row):.4g}",
            "median": wording.seconds(row.median),
        }
        for row in _rows(entries, measure)
    ]


def _speed(row: Row) -> float | None:
    return 1.0 if row.kind == "stock" and row.speedup is None else row.speedup


def _at_most(value: float | None, limit: float) -> float | None:
    return None if value is None else min(value, limit)
