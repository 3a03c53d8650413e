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
_MOST_FRAMES, _MILLISECONDS = 16, 2000


def write_strips(outcome: Outcome, stem: Path) -> dict[str, Any]:
    """Write STEM.first.webp and STEM.second.webp; returns their names, a cell's size, captions.

    At most 12 pairs, those that are furthest apart first. Clips move, in at most 16 of their
    frames and two seconds in all. Pictures of more than 256 pixels a side are shrunk.
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

    cells = [_frames(each) for each in shown]
    height, width = cells[0].shape[1:3]
    shrink = min(1.0, _LONGEST / max(width, height))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    strips = []
    for moment in zip(*cells, strict=True):
        strip = Image.new("RGB", (size[0] * len(cells), size[1]))
        for index, frame in enumerate(moment):
            cell = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
            strip.paste(cell, (index * size[0], 0))
        strips.append(strip)
    path.parent.mkdir(parents=True, exist_ok=True)
    moving: dict[str, Any] = {}
    if len(strips) > 1:
        duration = _MILLISECONDS // len(strips)
        moving = {"save_all": True, "append_images": strips[1:], "duration": duration, "loop": 0}
    strips[0].save(path, "WEBP", quality=_QUALITY, method=6, **moving)
    return size


def _frames(shown: Any) -> numpy.ndarray:
    """(T, H, W, 3) bytes, T of 1 for a picture; what is not finite is black."""
    import numpy

    frames = numpy.asarray(shown)
    if frames.ndim == 3:
        frames = frames[None]
    kept = numpy.linspace(0, len(frames) - 1, min(len(frames), _MOST_FRAMES)).round().astype(int)
    finite = numpy.nan_to_num(frames[kept], nan=0, posinf=0, neginf=0)
    levels: numpy.ndarray = (finite.clip(0, 1) * 255).round().astype(numpy.uint8)
    return levels
