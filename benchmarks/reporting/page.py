"""The page: one HTML file with its charts' library, styles, pictures and rows inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import ResultsError
from ..reader import Run
from ..selection import machines
from .drawing import needed
from .view import MachineView, view

_HERE = Path(__file__).parent
_TITLE = "sdaccel: measured"


def render(runs: Sequence[Run], per_hour: float | None = None) -> str:
    """The page for these runs, machine by machine; raises `ResultsError` where no row is."""
    found = machines(runs)
    if not found:
        raise ResultsError("There is nothing to report on: these files hold no row.")
    views = [view(each, f"m{index}", per_hour) for index, each in enumerate(found)]
    template = needed("jinja2").Environment(
        loader=needed("jinja2").FileSystemLoader(_HERE), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html")  # fmt: skip
    page: str = template.render(
        title=_TITLE,
        machines=views,
        per_hour=per_hour,
        style=_read("page.css"),
        script=_read("page.js"),
        library=_library(),
        charts=_for_script({card.identity: card.spec for card in _cards(views)}),
    )
    return page


def _cards(views: Sequence[MachineView]) -> list[Any]:
    return [card for each in views for section in each.sections for card in section.cards]


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _for_script(values: Any) -> str:
    """JSON that can stand in a script element, whatever text it holds."""
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script, which calls `vegaEmbed`; takes seconds."""
    needed("altair")
    bundle: str = needed("vl_convert").javascript_bundle()
    return bundle.replace("</script", "<\\/script")
