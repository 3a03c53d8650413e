"""Strips of both plans' pictures, for laying over each other."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
from PIL import Image

from sdaccel.cli.picture_strips import MOST, write_strips


def drawn(*shape: int, level: float) -> Any:
    return SimpleNamespace(pixels=numpy.full(shape, level, dtype=numpy.float32))


def outcome(first: list[Any], second: list[Any], psnr: list[float | None] | None) -> Any:
    """As much of an outcome as the strips need."""
    measured = {} if psnr is None else {"PSNR": SimpleNamespace(values=psnr)}
    return SimpleNamespace(
        comparison=SimpleNamespace(
            prompts=[f"prompt {index}" for index in range(len(first))], measured=measured, faults=[]
        ),
        sides=(
            SimpleNamespace(name="stock", drawings=first),
            SimpleNamespace(name="fast", drawings=second),
        ),
    )


def levels(path: Path, width: int) -> list[int]:
    """The level in the middle of each cell of a strip."""
    with Image.open(path) as strip:
        row = numpy.asarray(strip.convert("L"))[strip.height // 2]
    return [int(row[start + width // 2]) for start in range(0, len(row), width)]


def test_the_pairs_furthest_apart_come_first_with_their_captions(tmp_path: Path) -> None:
    first = [drawn(32, 32, 3, level=each) for each in (0.0, 0.5, 1.0)]
    found = write_strips(outcome(first, first, [60.0, math.inf, 20.0]), tmp_path / "row")
    assert (found["width"], found["height"]) == (32, 32)
    assert [each.splitlines()[0] for each in found["captions"]] == [
        "#3 prompt 2",
        "#1 prompt 0",
        "#2 prompt 1",
    ]
    assert found["captions"][2].splitlines()[1] == "identical"
    shown = levels(tmp_path / found["first"], 32)
    assert [round(each / 127.5) for each in shown] == [2, 0, 1]


def test_each_side_has_its_own_strip_of_the_same_cells(tmp_path: Path) -> None:
    white, black = ([drawn(16, 24, 3, level=each)] * 2 for each in (1.0, 0.0))
    found = write_strips(outcome(white, black, None), tmp_path / "row")
    assert (found["first"], found["second"]) == ("row.first.webp", "row.second.webp")
    assert (found["width"], found["height"]) == (24, 16)
    assert min(levels(tmp_path / "row.first.webp", 24)) > 250
    assert max(levels(tmp_path / "row.second.webp", 24)) < 5


def test_large_pictures_are_shrunk_and_many_are_cut_to_a_dozen(tmp_path: Path) -> None:
    many = [drawn(512, 1024, 3, level=0.5)] * (MOST + 3)
    found = write_strips(outcome(many, many, None), tmp_path / "row")
    assert (found["width"], found["height"]) == (256, 128)
    assert len(found["captions"]) == MOST
    with Image.open(tmp_path / "row.first.webp") as strip:
        assert strip.size == (256 * MOST, 128)


def test_a_clip_moves_in_both_strips_at_the_same_pace(tmp_path: Path) -> None:
    clip = drawn(40, 16, 16, 3, level=0.0)
    clip.pixels += numpy.linspace(0, 1, 40)[:, None, None, None]
    found = write_strips(outcome([clip] * 2, [clip] * 2, None), tmp_path / "row")
    for side in ("first", "second"):
        with Image.open(tmp_path / found[side]) as strip:
            assert strip.n_frames == 16
            shown = []
            for index in range(strip.n_frames):
                strip.seek(index)
                shown.append(int(numpy.asarray(strip.convert("L"))[8, 24]))
                assert strip.info["duration"] == 125
        assert shown == sorted(shown)
        assert (shown[0] < 5, shown[-1] > 250) == (True, True)


def test_what_is_not_finite_is_black(tmp_path: Path) -> None:
    broken = [drawn(16, 16, 3, level=math.nan)]
    found = write_strips(outcome(broken, broken, None), tmp_path / "row")
    assert levels(tmp_path / found["first"], 16)[0] < 5
