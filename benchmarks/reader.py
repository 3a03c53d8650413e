"""Read result files and folders of them; a file that holds none is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from . import schema_check
from .errors import ResultsError
from .kernel_rows import NAME as KERNELS
from .kernel_rows import KernelResults
from .quality_rows import QualityResults
from .rows import Results


@dataclass(frozen=True)
class Run:
    """One file: where it lies, what it holds, and its rows as they stand there."""

    path: Path
    results: Results
    raw_rows: list[dict[str, Any]]

    @property
    def machine(self) -> str:
        """What tells one machine from another: its folder's name, and how many threads ran."""
        machine = self.results.machine
        return f"{machine['slug']}, {machine['threads']} threads"


def read(path: Path) -> Run:
    """One file; raises `ResultsError` with its path for one that is cut off, broken or foreign."""
    values = _parse(path)
    if not isinstance(values, dict) or not {"schema", "rows"} <= values.keys():
        raise ResultsError(
            f"{path} holds no benchmark results: it is JSON, but not of "
            "`python -m sdaccel.benchmarks`."
        )
    wrong = schema_check.fault(values, schema_check.results_schema())
    if wrong is not None:
        raise ResultsError(f"{path} holds no readable results: {wrong}.")
    return Run(path, _kind(values).from_dict(values), values["rows"])


def read_all(places: Iterable[Path]) -> list[Run]:
    """Every file named, and every .json below the folders named, oldest first, each once.

    Raises `ResultsError` for a place that isn't there, and for a folder without results.
    """
    paths: dict[Path, None] = {}
    for place in places:
        paths.update(dict.fromkeys(_files(place)))
    return sorted((read(path) for path in paths), key=lambda run: (run.results.date, run.path))


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = sorted(path for path in place.rglob("*.json") if path.is_file())
    if not found:
        raise ResultsError(f"The folder {place} holds no results: no .json lies in or below it.")
    return found


def _kind(values: dict[str, Any]) -> type[Results]:
    if values["workload"] == KERNELS:
        return KernelResults
    rows = values["rows"]
    return QualityResults if rows and rows[0]["kind"] == "quality" else Results


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path} holds no readable results: it is no text.") from error
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            cut = "it is empty" if not text.strip() else "it ends in the middle: it was cut off"
            raise ResultsError(f"{path} holds no readable results: {cut}.") from error
        raise ResultsError(
            f"{path} holds no readable results: it is no JSON from line {error.lineno} on."
        ) from error
    except ValueError as error:
        raise ResultsError(f"{path} holds no readable results: {error}.") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number of JSON's")
