from __future__ import annotations

from itertools import pairwise

import numpy
from PIL import Image

from sdaccel.cli.contact_sheet import Column, compose

NAMES = ("stock", "lossless")
RNG = numpy.random.default_rng(0)


def _panels(sheet: Image.Image, side: int) -> list[tuple[int, int]]:
    """Upper left corners of the squares of `side` pixels without white in them, row by row."""
    filled = (numpy.asarray(sheet.convert("RGB")) != 255).any(-1).astype(int)
    total = numpy.pad(filled.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    full = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return [(int(x), int(y)) for y, x in zip(*numpy.nonzero(full == side * side), strict=True)]


def _column(side: int = 64, error: float = 0.02, caption: str = "a cat") -> Column:
    first = RNG.uniform(0.2, 0.8, (side, side, 3))
    return Column(first, first + error, caption)


def test_a_column_shows_both_pictures_and_their_difference_below_each_other() -> None:
    column = _column()
    sheet = compose([column], NAMES, "heading")
    corners = _panels(sheet, 192)
    assert len(corners) == 3
    assert len({left for left, _ in corners}) == 1
    shown = [
        numpy.asarray(sheet.crop((left, top, left + 192, top + 192)))[1::3, 1::3].astype(int)
        for left, top in corners
    ]
    first, second = ((each * 255).round().astype(int) for each in (column.first, column.second))
    assert (shown[0] == first).all()
    assert (shown[1] == second).all()
    # 0.02 is 5 or 6 levels; the gain of 20 is the largest that keeps 6 of them below 256.
    assert (shown[2] == abs(first - second) * 20).all()


def test_all_differences_have_the_same_gain() -> None:
    columns = [_column(error=0.01), _column(error=0.1)]
    sheet = compose(columns, NAMES, "heading")
    corners = _panels(sheet, 192)
    bottom = max(top for _, top in corners)
    small, large = (
        numpy.asarray(sheet.crop((left, top, left + 192, top + 192))).mean()
        for left, top in corners
        if top == bottom
    )
    assert 8 < large / small < 12


def test_many_columns_take_more_than_one_band_and_large_pictures_are_shrunk() -> None:
    sheet = compose([_column(side=256) for _ in range(9)], NAMES, "heading")
    assert sheet.width <= 1760
    corners = _panels(sheet, 192)
    assert len(corners) == 27
    tops = sorted({top for _, top in corners})
    assert len(tops) == 6
    assert all(after - before >= 192 for before, after in pairwise(tops))


def test_a_clip_is_shown_by_its_first_frame_its_last_and_two_between() -> None:
    clip = numpy.zeros((7, 96, 96, 3))
    clip[..., 0] = numpy.arange(40, 180, 20)[:, None, None] / 255
    sheet = compose([Column(clip, clip, "a clip")], NAMES, "heading")
    colours = {tuple(each) for each in numpy.unique(numpy.asarray(sheet).reshape(-1, 3), axis=0)}
    reds = {red for red, green, blue in colours if red and not green and not blue}
    assert reds == {40, 80, 120, 160}


def test_what_is_not_finite_is_black_and_breaks_nothing() -> None:
    column = _column()
    column.second[:] = numpy.nan
    sheet = compose([column], NAMES, "heading")
    pixels = numpy.asarray(sheet)
    assert (pixels == 0).all(-1).sum() >= 192 * 192
