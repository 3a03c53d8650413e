"""What all charts share: colours, sizes, and how altair is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sdaccel.errors import InputError

from .wording import CONTROL, LOSES, PEER, PLAN, ROLES, STOCK

Spec = dict[str, Any]

COLOURS = {
    STOCK: "#8b909a",
    CONTROL: "#c98a1b",
    PEER: "#7b7fd4",
    PLAN: "#12a594",
    LOSES: "#e5674d",
}
"""Of middling lightness, so that each stands out on white and on black."""

DTYPES = {"fp32": "#8b909a", "bf16": "#12a594", "fp16": "#3b8ed0", "int8": "#d9902f"}

_NEEDED = (
    "The report's charts need altair and its vega bundle, and its page needs jinja2: "
    'pip install "sdaccel[report]".'
)


def needed(module: str) -> Any:
    """Import a package of the extra `report`; raises `InputError` that names it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(_NEEDED) from error


def altair() -> Any:
    """The plotting library."""
    return needed("altair")


def data(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Rows as a chart's own data, without a table library."""
    return altair().Data(values=[dict(row) for row in rows])


def role_colour() -> Any:
    """A mark's colour by whose rung it is; the page has the legend."""
    scale = altair().Scale(domain=list(ROLES), range=[COLOURS[each] for each in ROLES])
    return altair().Color("role:N", scale=scale, legend=None)


def decades(values: Iterable[float]) -> list[float]:
    """The powers of ten among and around positive values, for the lines of a logarithmic axis."""
    logs = [math.log10(value) for value in values]
    return [10.0**power for power in range(math.floor(min(logs)), math.ceil(max(logs)) + 1)]


def spec(chart: Any, height: int) -> Spec:
    """The chart for the page: as wide as its place; letters and lines take the page's colours."""
    finished = chart.properties(
        width="container", height=height, autosize={"type": "fit-x", "contains": "padding"}
    ).configure(background="transparent", font="system-ui, sans-serif", padding=4)
    finished = (
        finished.configure_view(stroke=None)
        .configure_axis(
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelLimit=210,
            domain=False,
            ticks=False,
            labelPadding=6,
        )
        .configure_legend(
            orient="bottom",
            title=None,
            labelFontSize=12,
            columns=2,
            symbolBaseFillColor=COLOURS[STOCK],
        )
    )
    values: Spec = finished.to_dict()
    return values
