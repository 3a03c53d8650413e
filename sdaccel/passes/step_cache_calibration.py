"""How far each schedule of full steps is from stock's pictures: measured once, kept on disk.

One JSON file a model and scheduler, by class and configuration, and set of options and versions;
in it a table for each number of steps and guidance scale that was calibrated.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..kernels.native import cache_folder
from .step_cache_schedule import Choice


@dataclass(frozen=True)
class Row:
    """A schedule, and the mean distances of its pictures from stock's.

    `full` are the full steps, `forecast` the order in between, `psnr` of pictures in dB and
    `latents` the relative L2 distance of the final latents (None where the pipe hands out none).
    """

    full: tuple[int, ...]
    forecast: int
    psnr: float
    latents: float | None


@dataclass(frozen=True)
class Table:
    """The rows for generations of `steps` steps at a guidance scale, over `prompts` prompts."""

    steps: int
    guidance: float | None
    prompts: int
    rows: tuple[Row, ...]

    def cheapest(self, budget: float) -> Row | None:
        """The row with the fewest full steps whose PSNR is at least `budget` dB."""
        good = [row for row in self.rows if row.psnr >= budget]
        return min(good, key=lambda row: (len(row.full), -row.psnr), default=None)

    @property
    def best(self) -> float:
        """The highest PSNR that it covers."""
        return max(row.psnr for row in self.rows)


@dataclass(frozen=True)
class Calibration:
    """The tables of one `identity`: model, scheduler, options of the pass, versions."""

    identity: Mapping[str, Any]
    tables: tuple[Table, ...]

    def with_table(self, table: Table) -> Calibration:
        """This calibration with a table added, or in the place of the one for the same steps."""
        same = (table.steps, table.guidance)
        others = [each for each in self.tables if (each.steps, each.guidance) != same]
        return Calibration(self.identity, (*others, table))

    def write(self, path: Path) -> None:
        """Write all or nothing; raises `OSError`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
        os.replace(name, path)

    @classmethod
    def read(cls, path: Path, identity: Mapping[str, Any]) -> Calibration:
        """The calibration in a file, which has to be of this identity.

        Raises `ValueError` with a sentence otherwise.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ValueError(f"there is no calibration yet: {HOW}") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"the calibration {path} can't be read ({error}): {HOW}") from error
        return cls.parsed(text, path, identity)

    @classmethod
    def parsed(cls, text: str, path: Path, identity: Mapping[str, Any]) -> Calibration:
        """The calibration in a file's text, as `read` has it."""
        try:
            values = json.loads(text)
            tables = tuple(_table(each) for each in values["tables"])
            found = dict(values["identity"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the calibration {path} can't be read ({error}): {HOW}") from error
        other = [key for key in identity if found.get(key) != identity[key]]
        if other or not tables:
            what = ", ".join(other) or "number of steps"
            raise ValueError(f"the calibration {path} is of another {what}: {HOW}")
        return cls(found, tables)

    def under(self, other: Calibration) -> Calibration:
        """This calibration with the tables of another, which count for more."""
        found = self
        for table in other.tables:
            found = found.with_table(table)
        return found


HOW = "make one with `sdaccel calibrate`"


class Calibrated:
    """Chooses the cheapest schedule that was measured to keep `budget` dB of PSNR."""

    def __init__(self, pipe: Any, calibration: Calibration, budget: float) -> None:
        self._pipe = pipe
        self._calibration = calibration
        self._budget = budget

    def choose(self, total: int) -> Choice:
        """The full steps, all of them where nothing was measured that keeps the budget."""
        tables, guidance = self._calibration.tables, guidance_of(self._pipe)
        scheduler = named(self._pipe.scheduler)
        if scheduler != self._calibration.identity["scheduler"]:
            return _nothing(total, f"calibrated for another scheduler than this {scheduler}")
        fitting = [each for each in tables if (each.steps, each.guidance) == (total, guidance)]
        if not fitting:
            known = ", ".join(_said(each.steps, each.guidance) for each in tables)
            return _nothing(total, f"calibrated for {known}, not for {_said(total, guidance)}")
        row = fitting[0].cheapest(self._budget)
        if row is None:
            return _nothing(total, f"calibrated up to {fitting[0].best:.1f} dB at {total} steps")
        return Choice(frozenset(row.full), row.forecast)


def _said(steps: int, guidance: float | None) -> str:
    return f"{steps} steps" + ("" if guidance is None else f" at guidance {guidance}")


def _nothing(total: int, reason: str) -> Choice:
    return Choice.everything(total, f"nothing is skipped, {reason}")


def guidance_of(pipe: Any) -> float | None:
    """The guidance scale of the call that a pipe is in, where it keeps one."""
    found = getattr(pipe, "_guidance_scale", None)
    return round(float(found), 4) if isinstance(found, (int, float)) else None


def identity_of(model: Any, scheduler: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a calibration depends on, in plain values."""
    import diffusers

    return {
        "model": named(model),
        "scheduler": named(scheduler),
        "options": dict(options),
        "diffusers": diffusers.__version__,
    }


def default_path(identity: Mapping[str, Any]) -> Path:
    """Where the calibration of an identity is kept: in SDACCEL_CACHE or the user's cache."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    name = str(identity["model"]).split()[0]
    return cache_folder() / "step_cache" / f"{name}-{digest}.json"


def named(part: Any) -> str:
    """A model's or a scheduler's class, and a short hash of its configuration."""
    config = {key: value for key, value in dict(part.config).items() if not key.startswith("_")}
    text = json.dumps(config, sort_keys=True, default=str)
    return f"{type(part).__name__} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _table(values: Mapping[str, Any]) -> Table:
    rows: Sequence[Mapping[str, Any]] = values["rows"]
    made = tuple(Row(**{**row, "full": tuple(row["full"])}) for row in rows)
    if not made:
        raise ValueError("a table without rows")
    return Table(**{**values, "rows": made})
