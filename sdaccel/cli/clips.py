"""The clip of a comparison: stock and accelerated side by side, playing together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sheet import MARGIN, PAPER, font_size, panel_size, text_block

if TYPE_CHECKING:
    from PIL.Image import Image

    from .sheet import Row


def compose(rows: list[Row[list[Image]]], heading: str) -> list[Image]:
    """One frame for each frame of the clips: the heading, and in each row stock and accelerated.

    Small clips are enlarged by a whole factor, each pixel a square.
    """
    panel = panel_size(*rows[0].pictures[0][0].size)
    page, places = _page(rows, heading, panel)
    frames = []
    for shown in zip(*(clip for row in rows for clip in row.pictures), strict=True):
        frame = page.copy()
        for picture, place in zip(shown, places, strict=True):
            frame.paste(_enlarged(picture, panel), place)
        frames.append(frame)
    return frames


def _page(
    rows: list[Row[list[Image]]], heading: str, panel: tuple[int, int]
) -> tuple[Image, list[tuple[int, int]]]:
    """What stands still, with even sides, and the upper left corner of each clip, row by row."""
    from PIL import Image

    width = 2 * panel[0] + 3 * MARGIN
    size = font_size(panel)
    head = text_block(heading, width - 2 * MARGIN, size)
    texts = [_captions(row, panel[0], size) for row in rows]
    heights = [panel[1] + max(each.height for each in pair) + MARGIN for pair in texts]
    height = 2 * MARGIN + head.height + sum(heights)
    page = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
    page.paste(head, (MARGIN, MARGIN))
    top, places = 2 * MARGIN + head.height, []
    for pair, row_height in zip(texts, heights, strict=True):
        for index, text in enumerate(pair):
            left = MARGIN + index * (panel[0] + MARGIN)
            places.append((left, top))
            page.paste(text, (left, top + panel[1]))
        top += row_height
    return page, places


def _captions(row: Row[list[Image]], width: int, size: int) -> list[Image]:
    stock, accelerated = row.captions
    return [
        text_block(stock, width, size),
        text_block(f"{accelerated}\n{row.quality}", width, size),
    ]


def _enlarged(picture: Image, panel: tuple[int, int]) -> Image:
    from PIL import Image

    return picture.convert("RGB").resize(panel, Image.Resampling.NEAREST)
