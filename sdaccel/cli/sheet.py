"""The picture of a comparison: stock, accelerated, and the difference made visible."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from PIL.Image import Image

_PANEL = 320
MARGIN = 16
_GAINS = (1, 2, 5, 10, 20, 50, 100)
_INK, PAPER = (24, 24, 24), (255, 255, 255)

Shown = TypeVar("Shown")


@dataclass(frozen=True)
class Row(Generic[Shown]):
    """One pair of pictures or clips with their captions, and how far they are apart in words."""

    pictures: tuple[Shown, Shown]
    captions: tuple[str, str]
    quality: str


def compose(rows: list[Row[Image]], heading: str) -> Image:
    """One sheet: the heading, and in each row stock, accelerated and their difference.

    Small pictures are enlarged by a whole factor, each pixel a square, so that a panel shows
    nothing but the picture's own pixels.
    """
    from PIL import Image

    panel = panel_size(*rows[0].pictures[0].size)
    sheet_width = 3 * panel[0] + 4 * MARGIN
    head = text_block(heading, sheet_width - 2 * MARGIN, font_size(panel))
    strips = [_strip(row, panel) for row in rows]
    total = MARGIN + head.height + sum(each.height + MARGIN for each in strips) + MARGIN
    sheet = Image.new("RGB", (sheet_width, total), PAPER)
    sheet.paste(head, (MARGIN, MARGIN))
    top = MARGIN + head.height + MARGIN
    for each in strips:
        sheet.paste(each, (MARGIN, top))
        top += each.height + MARGIN
    return sheet


def panel_size(width: int, height: int) -> tuple[int, int]:
    """The size enlarged by the whole factor that brings it nearest to 320 pixels, or unchanged."""
    scale = max(1, round(_PANEL / max(width, height)))
    return width * scale, height * scale


def difference(first: Image, second: Image) -> tuple[Image, int]:
    """The absolute difference of two pictures times a gain, and the gain.

    The gain is the largest of a few round numbers at which nothing saturates, 1 for a difference
    that fills the range.
    """
    import numpy
    from PIL import Image

    a, b = (numpy.asarray(each.convert("RGB"), dtype=numpy.int16) for each in (first, second))
    distance = numpy.abs(a - b)
    gain = gain_for(int(distance.max()))
    return Image.fromarray((distance * gain).astype(numpy.uint8)), gain


def gain_for(largest: int) -> int:
    """The largest of a few round numbers that keeps a difference of so many levels below 256."""
    return max((each for each in _GAINS if largest * each <= 255), default=1)


def _strip(row: Row[Image], panel: tuple[int, int]) -> Image:
    from PIL import Image

    apart, gain = difference(*row.pictures)
    label = f"difference x{gain}" if apart.getbbox() else "no difference"
    captions = [*row.captions, f"{label}\n{row.quality}"]
    texts = [text_block(caption, panel[0], font_size(panel)) for caption in captions]
    height = panel[1] + max(each.height for each in texts)
    strip = Image.new("RGB", (3 * panel[0] + 2 * MARGIN, height), PAPER)
    for index, (picture, text) in enumerate(zip([*row.pictures, apart], texts, strict=True)):
        left = index * (panel[0] + MARGIN)
        enlarged = picture.convert("RGB").resize(panel, Image.Resampling.NEAREST)
        strip.paste(enlarged, (left, 0))
        strip.paste(text, (left, panel[1]))
    return strip


def font_size(panel: tuple[int, int]) -> int:
    """Letters of a 20th of the panel's width, and never too small to read."""
    return max(15, panel[0] // 20)


def text_block(text: str, width: int, size: int) -> Image:
    """Lines of text, wrapped to `width` pixels: at spaces, before a plan's signs, else anywhere."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=size)
    lines = [line for each in text.splitlines() for line in _wrapped(each, width, font)]
    step = size * 4 // 3
    image = Image.new("RGB", (width, step * len(lines) + step // 2), PAPER)
    pen = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        pen.text((0, step // 4 + index * step), line, fill=_INK, font=font)
    return image


def _wrapped(line: str, width: int, font: Any) -> list[str]:
    def fits(text: str) -> bool:
        return bool(font.getlength(text) <= width)

    lines = [""]
    for word in line.split():
        longer = f"{lines[-1]} {word}".strip()
        if fits(longer):
            lines[-1] = longer
            continue
        first, *rest = _broken(word, fits)
        lines[-1:] = [lines[-1], first] if lines[-1] else [first]
        lines += rest
    return lines


def _broken(word: str, fits: Callable[[str], bool]) -> list[str]:
    """A word in pieces that fit: cut before a sign of a plan's expression where that is enough."""
    pieces = [""]
    for part in re.split(r"(?=[+-])", word):
        for letters in [part] if fits(part) else part:
            if not pieces[-1] or fits(pieces[-1] + letters):
                pieces[-1] += letters
            else:
                pieces.append(letters)
    return pieces
