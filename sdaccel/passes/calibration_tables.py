"""What calibrations hold: how far pictures or clips are, schedule by schedule or share by share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A schedule, and the mean distances of its pictures from stock's.

    `full` are the full steps, `forecast` the order in between, `psnr` of pictures, or of clips over
    all frames, in dB and `latents` the relative L2 distance of the final latents (None where the
    pipe hands out none). `skip` is what the other steps leave out: "deep", "whole" or "branch";
    `variable` what the forecasts are polynomials in (see `sampler_times`).
    """

    full: tuple[int, ...]
    forecast: int
    psnr: float
    latents: float | None
    skip: str = "deep"
    variable: str = "step"


@dataclass(frozen=True)
class Table:
    """The rows for generations of `steps` steps at a guidance scale, over `prompts` prompts.

    `shallow` is what a step costs that leaves out the deep part, or a branch, as a share of a full
    one.
    """

    steps: int
    guidance: float | None
    prompts: int
    rows: tuple[Row, ...]
    shallow: float = 0.0

    def cost(self, row: Row) -> float:
        """What a row's generation costs, in full steps; one left out as a whole is for free."""
        skipped = 0 if row.skip == "whole" else self.steps - len(row.full)
        return len(row.full) + skipped * self.shallow

    def cheapest(self, budget: float) -> Row | None:
        """The row that costs least of those whose PSNR is at least `budget` dB."""
        good = [row for row in self.rows if row.psnr >= budget]
        return min(good, key=lambda row: (self.cost(row), -row.psnr), default=None)

    @property
    def best(self) -> float:
        """The highest PSNR that it covers."""
        return max(row.psnr for row in self.rows)

    @property
    def key(self) -> tuple[Any, ...]:
        """What a generation has in common with those that were measured."""
        return self.steps, self.guidance

    def is_for_those_of(self, other: Table) -> bool:
        """Whether it was measured for the same generations as another."""
        return self.key == other.key

    @classmethod
    def parsed(cls, values: Mapping[str, Any]) -> Table:
        """A table from plain values; raises what broken ones raise."""
        rows = [Row(**{**row, "full": tuple(row["full"])}) for row in some_rows(values)]
        return cls(**{**values, "rows": tuple(rows)})


@dataclass(frozen=True)
class KeptRow:
    """A share that sparse attention keeps, and the mean distances of its clips from stock's.

    `density` is the share of all pairs of blocks that it came to in the first clips.
    """

    keep: float
    density: float
    psnr: float
    latents: float | None


@dataclass(frozen=True)
class KeptTable:
    """The rows for clips of `grid` tokens (frames, rows, columns, and of a text before them).

    `options` are those of the pass that were the same for all rows.
    """

    steps: int
    guidance: float | None
    prompts: int
    grid: tuple[int, ...]
    options: Mapping[str, Any]
    rows: tuple[KeptRow, ...]

    def cheapest(self, budget: float) -> KeptRow | None:
        """The row that keeps least of those whose PSNR is at least `budget` dB."""
        good = [row for row in self.rows if row.psnr >= budget]
        return min(good, key=lambda row: row.keep, default=None)

    @property
    def best(self) -> float:
        """The highest PSNR that it covers."""
        return max(row.psnr for row in self.rows)

    @property
    def key(self) -> tuple[Any, ...]:
        """What a generation has in common with those that were measured."""
        return self.steps, self.guidance, self.grid

    def is_for_those_of(self, other: KeptTable) -> bool:
        """Whether it was measured for the same generations, with the same options, as another."""
        return self.key == other.key and self.options == other.options

    @classmethod
    def parsed(cls, values: Mapping[str, Any]) -> KeptTable:
        """A table from plain values; raises what broken ones raise."""
        rows = tuple(KeptRow(**row) for row in some_rows(values))
        return cls(**{**values, "grid": tuple(values["grid"]), "rows": rows})


def some_rows(values: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The rows among a table's values; `ValueError` where there are none."""
    rows: Sequence[Mapping[str, Any]] = values["rows"]
    if not rows:
        raise ValueError("a table without rows")
    return rows


def said(key: tuple[Any, ...]) -> str:
    """The key of a table in words: "25 steps at guidance 5.0, 3x8x8 tokens"."""
    steps, guidance, *grids = key
    words = f"{steps} steps" + ("" if guidance is None else f" at guidance {guidance}")
    for *sides, text in grids:
        words += f", {'x'.join(map(str, sides))} tokens" + (f" behind {text}" if text else "")
    return words
