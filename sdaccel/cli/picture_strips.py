"""Both plans' pictures as two strips of equal cells, to be laid over each other in a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    from .compare_report import Outcome

MOST = 12
_LONGEST = 256
_QUALITY = 90


def write_strips(outcome: Outcome, stem: Path) -> dict[str, Any]:
    """Write STEM.first.webp and STEM.second.webp; returns their names, a cell's size, captions.

    At most 12 pairs, those that are furthest apart first; of a clip its middle frame. Pictures of
    more than 256 pixels a side are shrunk.
    """
    from .compare_report import caption

    chosen = _furthest_apart(outcome)[:MOST]
    written: dict[str, Any] = {}
    for name, side in zip(("first", "second"), outcome.sides, strict=True):
        path = stem.with_name(f"{stem.name}.{name}.webp")
        size = _write([side.drawings[index].pixels for index in chosen], path)
        written |= {name: path.name, "width": size[0], "height": size[1]}
    return {**written, "captions": [caption(outcome, index) for index in chosen]}


def _furthest_apart(outcome: Outcome) -> list[int]:
    """The pairs' numbers, the lowest PSNR first."""
    from ..quality.metrics import PSNR

    measured = outcome.comparison.measured.get(PSNR)
    numbers = range(len(outcome.comparison.prompts))
    return sorted(numbers, key=lambda i: (measured.values[i] or 0.0) if measured else 0.0)


def _write(shown: Sequence[Any], path: Path) -> tuple[int, int]:
    """Write pictures beside each other; returns a cell's width and height."""
    from PIL import Image

    cells = [Image.fromarray(_picture(each)) for each in shown]
    width, height = cells[0].size
    shrink = min(1.0, _LONGEST / max(width, height))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    strip = Image.new("RGB", (size[0] * len(cells), size[1]))
    for index, cell in enumerate(cells):
        strip.paste(cell.resize(size, Image.Resampling.LANCZOS), (index * size[0], 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    strip.save(path, "WEBP", quality=_QUALITY, method=6)
    return size


def _picture(shown: Any) -> numpy.ndarray:
    """(H, W, 3) bytes; what is not finite is black."""
    import numpy

    frame = numpy.asarray(shown)
    if frame.ndim == 4:
        frame = frame[len(frame) // 2]
    finite = numpy.nan_to_num(frame, nan=0, posinf=0, neginf=0)
    levels: numpy.ndarray = (finite.clip(0, 1) * 255).round().astype(numpy.uint8)
    return levels
