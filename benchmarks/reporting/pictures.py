"""Pictures of a comparison, from the files beside its row, as parts of the page itself."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ResultsError
from ..quality_rows import QualityRow
from ..selection import Entry
from . import wording

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = (".webp", ".png", ".jpg", ".jpeg")
_WIDEST_SHEET = 1600
_QUALITY = 82


@dataclass(frozen=True)
class Pair:
    """One place on both strips, and what to say of it."""

    index: int
    caption: str


@dataclass(frozen=True)
class Comparison:
    """Two plans' pictures: strips to lay over each other, or the contact sheet as it is."""

    name: str
    first: str
    second: str
    figures: tuple[tuple[str, str], ...]
    verdict: str
    passed: bool
    pairs: tuple[Pair, ...]
    first_strip: str
    second_strip: str
    aspect: str
    sheet: str


def comparison(entry: Entry) -> Comparison:
    """What the page shows of one comparison; raises `ResultsError` for a broken picture."""
    row = entry.row
    assert isinstance(row, QualityRow)
    strips, sheet = ("", ""), ""
    pairs: tuple[Pair, ...] = ()
    listed = entry.raw.get("pictures") or {}
    files = [entry.run.path.parent / str(listed.get(side, "")) for side in ("first", "second")]
    if listed and all(file.is_file() for file in files):
        strips = (_strip(files[0]), _strip(files[1]))
        pairs = tuple(Pair(i, str(each)) for i, each in enumerate(listed.get("captions", ())))
    else:
        sheet = _sheet_beside(entry.run.path)
    settings = row.settings
    model = settings.get("model", row.workload)
    return Comparison(
        name=f"{model}, {wording.dtype(row)}, {settings.get('steps', '?')} steps",
        first=row.against,
        second=row.rung,
        figures=tuple(_figures(row)),
        verdict=_verdict(row),
        passed=row.status == "ok",
        pairs=pairs,
        first_strip=strips[0],
        second_strip=strips[1],
        aspect=f"{listed.get('width', 1)} / {listed.get('height', 1)}",
        sheet=sheet,
    )


def _figures(row: QualityRow) -> list[tuple[str, str]]:
    """Each metric, with its mean, interval and worst pair in words."""
    found = []
    for name, measured in row.measured.items():
        unit = f" {measured['unit']}" if measured.get("unit") else ""
        mean = measured.get("mean")
        if measured.get("mean_of_second") is not None:
            before, after = measured["mean_of_first"], measured["mean_of_second"]
            found.append((name, f"{before:.1%} to {after:.1%}"))
        elif mean is None:
            found.append((name, "all identical"))
        else:
            low, high, worst = (measured[key] for key in ("low", "high", "worst"))
            found.append(
                (name, f"{mean:.4g}{unit} ({low:.4g} to {high:.4g}), worst {worst:.4g}{unit}")
            )
    return [*found, ("prompts", f"{row.settings.get('count', '?')}, {row.settings.get('prompts')}")]


def _verdict(row: QualityRow) -> str:
    gate = row.gate.get("gate", "")
    if row.status == "ok":
        return f"passed the gate “{gate}”"
    return f"FAILED the gate “{gate}”: {row.reason}"


def _sheet_beside(path: Path) -> str:
    """The contact sheet of the row's own name; empty where there is none."""
    for suffix in _SUFFIXES:
        if path.with_suffix(suffix).is_file():
            return _embedded(path.with_suffix(suffix), _WIDEST_SHEET)
    return ""


def _strip(path: Path) -> str:
    """A strip as it lies there: its pictures are compared, so nothing may be lost once more."""
    kind = str(_open(path).format).lower()
    return _data(kind, path.read_bytes())


def _embedded(path: Path, widest: int) -> str:
    """A picture as WebP, no wider than `widest` pixels."""
    image = _open(path)
    if image.width > widest:
        image = image.resize((widest, round(image.height * widest / image.width)))
    kept = io.BytesIO()
    image.convert("RGB").save(kept, "WEBP", quality=_QUALITY, method=6)
    return _data("webp", kept.getvalue())


def _open(path: Path) -> Image:
    import PIL.Image

    try:
        image: Image = PIL.Image.open(path)
        image.load()
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"{path} is no picture that can be read: remove or redraw it."
        ) from error
    return image


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
