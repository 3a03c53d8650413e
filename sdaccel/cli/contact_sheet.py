"""Many pairs on one sheet: one plan above, the other below it, their difference under both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .sheet import gain_for, text_block

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

_SIDE = 192
_WIDTH = 1728
_GAP = 8
_MARGIN = 16
_LETTERS = 14
_LABELS = 120
_FRAMES = 4
_PAPER = (255, 255, 255)


@dataclass(frozen=True)
class Column:
    """Two drawings, pictures (H, W, 3) or clips (T, H, W, 3) in 0 to 1, and what to say below."""

    first: Any
    second: Any
    caption: str


def compose(columns: Sequence[Column], names: tuple[str, str], heading: str) -> Image:
    """The sheet; a clip is shown by four of its frames, what is not finite as black.

    All differences are enlarged by the same gain, the largest of a few round numbers at which none
    saturates, so that they can be compared; it stands beside them.
    """
    from PIL import Image

    strips = [(_strip(each.first), _strip(each.second)) for each in columns]
    apart = [_distance(*pair) for pair in strips]
    gain = gain_for(max(int(each.max()) for each in apart))
    panel = _panel(strips[0][0])
    labels = (*names, f"difference x{gain}")
    across = max(1, (_WIDTH - _LABELS) // (panel[0] + _GAP))
    cells = [
        _cell([*pair, (distance * gain).clip(0, 255).astype("uint8")], each.caption, panel)
        for pair, distance, each in zip(strips, apart, columns, strict=True)
    ]
    bands = [_band(cells[i : i + across], labels, panel) for i in range(0, len(cells), across)]
    width = max(band.width for band in bands)
    head = text_block(heading, width, _LETTERS + 2)
    total = 2 * _MARGIN + head.height + sum(band.height + _MARGIN for band in bands)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, total), _PAPER)
    top = _MARGIN
    for each in (head, *bands):
        sheet.paste(each, (_MARGIN, top))
        top += each.height + _MARGIN
    return sheet


def _strip(shown: Any) -> numpy.ndarray:
    """A picture, or four frames of a clip, a white line between them, as (H, W, 3) bytes."""
    import numpy

    frames = numpy.asarray(shown)
    if frames.ndim == 4:
        kept = numpy.unique(numpy.linspace(0, len(frames) - 1, _FRAMES).round().astype(int))
        spaced = numpy.pad(frames[kept], ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=1)
        frames = numpy.concatenate(list(spaced), axis=1)[:, :-1]
    finite = numpy.nan_to_num(frames, nan=0, posinf=0, neginf=0)
    levels: numpy.ndarray = (finite.clip(0, 1) * 255).round().astype(numpy.uint8)
    return levels


def _distance(first: numpy.ndarray, second: numpy.ndarray) -> numpy.ndarray:
    return abs(first.astype(int) - second)


def _panel(strip: numpy.ndarray) -> tuple[int, int]:
    """Width and height on the sheet: a whole multiple of a small picture, or a large one shrunk."""
    height, width = strip.shape[:2]
    if height <= _SIDE:
        return width * (_SIDE // height), height * (_SIDE // height)
    return max(1, width * _SIDE // height), _SIDE


def _cell(pictures: list[numpy.ndarray], caption: str, panel: tuple[int, int]) -> Image:
    """Pictures below each other, and the caption under them."""
    from PIL import Image

    words = text_block(caption, panel[0], _LETTERS)
    top = len(pictures) * (panel[1] + _GAP)
    cell = Image.new("RGB", (panel[0], top + words.height), _PAPER)
    for index, each in enumerate(pictures):
        small = each.shape[0] <= panel[1]
        method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        cell.paste(Image.fromarray(each).resize(panel, method), (0, index * (panel[1] + _GAP)))
    cell.paste(words, (0, top))
    return cell


def _band(cells: list[Image], labels: tuple[str, ...], panel: tuple[int, int]) -> Image:
    """Cells beside each other, what their rows are at the left."""
    from PIL import Image

    width = _LABELS + len(cells) * (panel[0] + _GAP)
    band = Image.new("RGB", (width, max(cell.height for cell in cells)), _PAPER)
    for row, label in enumerate(labels):
        band.paste(text_block(label, _LABELS - _GAP, _LETTERS), (0, row * (panel[1] + _GAP)))
    for index, cell in enumerate(cells):
        band.paste(cell, (_LABELS + index * (panel[0] + _GAP), 0))
    return band
