"""Labels of a crowded chart: all within it, none on another or on a point, near their own."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from sdaccel.benchmarks.reporting.labels import HEIGHT, WIDTH, placed

SPEEDS, VALUES = (1.0, 4.0), (20.0, 60.0)


def points(count: int, apart: float) -> list[dict[str, Any]]:
    """Neighbours on a falling line, a dozen letters each."""
    return [
        {
            "speed": 2 + apart * index,
            "value": 40 - 10 * apart * index,
            "label": f"a-peer-no-{index:02}",
            "above": index % 2 == 0,
        }
        for index in range(count)
    ]


def boxes(found: list[dict[str, Any]], letters: float) -> list[tuple[float, float, float]]:
    """Middles in pixels and half widths."""
    return [
        (
            (each["across"] - SPEEDS[0]) / (SPEEDS[1] - SPEEDS[0]) * WIDTH,
            (each["place"] - VALUES[0]) / (VALUES[1] - VALUES[0]) * HEIGHT,
            letters * len(each["label"]) / 2,
        )
        for each in found
    ]


def test_thirty_crowded_points_have_labels_that_can_be_read() -> None:
    crowd = points(30, 0.05)
    found = placed(crowd[:18], crowd, SPEEDS, VALUES)
    assert len(found) == 18
    assert {each["far"] for each in found} == {True, False}
    for (x, y, half), (other_x, other_y, other_half) in combinations(boxes(found, 5.5), 2):
        assert abs(x - other_x) >= half + other_half or abs(y - other_y) >= 12
    assert all(VALUES[0] <= each["place"] <= VALUES[1] for each in found)
    marks = boxes(
        [{**each, "place": each["value"], "across": each["speed"], "label": ""} for each in crowd],
        0,
    )
    for x, y, half in boxes(found, 5.5):
        assert all(abs(x - at) >= half or abs(y - height) >= 12 for at, height, _ in marks)


def test_with_room_a_label_is_over_its_point_or_to_the_right_of_it() -> None:
    over, beside = placed(points(2, 1.0), points(2, 1.0), SPEEDS, VALUES)
    one_line = (VALUES[1] - VALUES[0]) / HEIGHT * 14
    assert (over["far"], beside["far"]) == (False, False)
    assert over["across"] == pytest.approx(over["speed"])
    assert over["place"] - over["value"] == pytest.approx(one_line)
    assert beside["place"] == pytest.approx(beside["value"])
    (_, (x, _, half)) = boxes([over, beside], 6)
    assert x - half > (beside["speed"] - SPEEDS[0]) / (SPEEDS[1] - SPEEDS[0]) * WIDTH


def test_a_label_without_room_is_left_out_and_the_first_stays() -> None:
    crowd = points(60, 0.0)
    found = placed(crowd, crowd[:1], SPEEDS, VALUES)
    assert 10 < len(found) < 25
    assert found[0]["label"] == "a-peer-no-00"
