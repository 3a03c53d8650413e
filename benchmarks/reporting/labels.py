"""Where the names at a chart's points go, so that none lies on another.

Each starts at its point, and moves up or down, and half of its width to a side, to the nearest
place that is free. One below its point is first tried to the right of it, at its line's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Point = dict[str, Any]
Box = tuple[float, float, float]
"""The middle of a label, and half of its width, in pixels."""

WIDTH, HEIGHT = 330, 260
"""Pixels that the points of a chart have on a page of 1,240; on a wider one labels have more."""
_LETTER, _LINE, _MARK = 6.0, 14.0, 5.0
"""Pixels that a letter, a line and half of a point take."""
ASIDE = 55
"""Pixels that a chart leaves beside its outermost points."""
_NEAR = 1.5 * _LINE
_FURTHEST = 12
"""Lines by which a label may leave its point."""


def placed(
    named: Sequence[Point],
    points: Sequence[Point],
    speeds: Sequence[float],
    values: Sequence[float],
) -> list[Point]:
    """The `named` points with the `place` of their labels on the axis of their `value`, and with
    their `across` on that of their `speed`.

    One that went more than a line away is `far`.

    `points` are all that are drawn, `speeds` and `values` the ends of what the axes show. A label
    with `above` starts over its point, else below; the first of two that meet stays. One for which
    there is no room within the chart is left out.
    """
    at = [_middle(each, speeds, values) for each in points]
    taken: list[Box] = [(x, y, _MARK) for x, y in at]
    found = []
    for point in named:
        boxes = _tried(point, *_middle(point, speeds, values))
        box = next((each for each in boxes if _free(each, taken)), None)
        if box is not None:
            taken.append(box)
            place = _number(1 - box[1] / HEIGHT, values)
            far = abs(box[1] - _middle(point, speeds, values)[1]) > _NEAR
            found.append(
                {**point, "place": place, "across": _number(box[0] / WIDTH, speeds), "far": far}
            )
    return found


def _tried(point: Point, x: float, y: float) -> Iterator[Box]:
    """The places of a label within the chart, from the nearest on."""
    towards = -1 if point["above"] else 1
    half = _LETTER * len(point["label"]) / 2
    beside = x + half + 2 * _MARK
    if not point["above"] and beside + half <= WIDTH + ASIDE:
        yield beside, y, half
    for line in range(1, _FURTHEST + 1):
        for side in (towards, -towards):
            middle = y + side * _LINE * line
            if 0 <= middle <= HEIGHT:
                yield from ((x + shift, middle, half) for shift in (0.0, half, -half))


def _free(box: Box, taken: Sequence[Box]) -> bool:
    return all(
        abs(box[0] - other[0]) >= box[2] + other[2] or abs(box[1] - other[1]) > _LINE - 1
        for other in taken
    )


def _middle(point: Point, speeds: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    x = _pixels(point["speed"], speeds, WIDTH)
    return x, HEIGHT - _pixels(point["value"], values, HEIGHT)


def _pixels(number: float, ends: Sequence[float], length: float) -> float:
    low, high = ends
    return length / 2 if high == low else length * (number - low) / (high - low)


def _number(share: float, ends: Sequence[float]) -> float:
    return ends[0] + share * (ends[1] - ends[0])
