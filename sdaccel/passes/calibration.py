"""How far each schedule of full steps is from stock's pictures: measured once, kept on disk.

One JSON file a model, by class, configuration and samples of its weights, scheduler, options of
step_cache and version of diffusers; in it a table for each number of steps and guidance scale, of
step_cache's schedules and of those of guidance, to which the options are nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from math import isclose
from pathlib import Path
from typing import Any, Literal

from ..kernels.native import cache_folder

_SAMPLES = 32
_ROUNDED = 2**-7
"""Twice what rounding to bf16 changes at most, relative to the value."""
_ADAPTER = "lora_"
_VERSION = 2
"""Of the file: 1 had no version in it, and nothing on guidance."""
Part = Literal["tables", "guidance"]


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


@dataclass(frozen=True)
class Calibration:
    """The tables of one `identity`: model, weights, scheduler, options of the pass, version.

    `tables` are step_cache's, `guidance` those of guidance.
    """

    identity: Mapping[str, Any]
    tables: tuple[Table, ...]
    guidance: tuple[Table, ...] = ()

    def under(self, other: Calibration) -> Calibration:
        """This calibration with the tables of another, which count for more."""
        tables = _replaced(self.tables, other.tables)
        return Calibration(self.identity, tables, _replaced(self.guidance, other.guidance))

    def write(self, path: Path) -> None:
        """Write all or nothing; raises `OSError`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"version": _VERSION, **asdict(self)}, file, indent=1)
        os.replace(name, path)

    @classmethod
    def read(cls, path: Path, identity: Mapping[str, Any], but: Sequence[str] = ()) -> Calibration:
        """The calibration in a file, which has to be of this identity, but for the keys of `but`.

        Raises `ValueError` with a sentence otherwise.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ValueError(f"there is no calibration yet: {HOW}") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"the calibration {path} can't be read ({error}): {HOW}") from error
        return cls.parsed(text, path, identity, but)

    @classmethod
    def parsed(
        cls, text: str, path: Path, identity: Mapping[str, Any], but: Sequence[str] = ()
    ) -> Calibration:
        """The calibration in a file's text, as `read` has it."""
        try:
            values = json.loads(text)
            version = int(values.get("version", 1))
            tables = tuple(_table(each) for each in values["tables"])
            guidance = tuple(_table(each) for each in values.get("guidance", ()))
            found = dict(values["identity"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the calibration {path} can't be read ({error}): {HOW}") from error
        if version > _VERSION:
            raise ValueError(f"the calibration {path} is of a newer sdaccel: {HOW}")
        wanted = {key: value for key, value in identity.items() if key not in but}
        other = [key for key in wanted if not _agree(found.get(key), wanted[key])]
        if other or not tables:
            what = ", ".join(other) or "number of steps"
            raise ValueError(f"the calibration {path} is of another {what}: {HOW}")
        return cls(found, tables, guidance)

    def part(self, part: Part, path: Path) -> Calibration:
        """This calibration, where it has that part; `ValueError` with a sentence otherwise."""
        if not getattr(self, part):
            raise ValueError(f"the calibration {path} has nothing on {part}: {HOW}")
        return self


HOW = "make one with `sdaccel calibrate`"


def identity_of(model: Any, scheduler: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a calibration depends on, in plain values."""
    import diffusers

    return {
        "model": named(model),
        "weights": samples_of(model),
        "scheduler": named(scheduler),
        "options": dict(options),
        "diffusers": diffusers.__version__,
    }


def samples_of(model: Any) -> list[float | None]:
    """Values spread over a model's weights, which tell it from the same model trained further.

    An adapter's base is the same; what can't be read, as quantized weights can't, is None.
    """
    named_weights = {
        name.replace(".base_layer.", "."): weight
        for name, weight in model.named_parameters()
        if _ADAPTER not in name
    }
    names = sorted(named_weights)
    chosen = names[:: max(1, len(names) // _SAMPLES)]
    return [_middle(named_weights[name]) for name in chosen]


def _middle(weight: Any) -> float | None:
    """The value in the middle of a tensor, wherever it lies in memory."""
    import torch

    if not weight.is_floating_point() or weight.numel() == 0:
        return None
    place = torch.unravel_index(torch.tensor(weight.numel() // 2), weight.shape)
    try:
        return float(weight.detach()[tuple(int(each) for each in place)])
    except (RuntimeError, NotImplementedError):
        return None


def _agree(found: Any, wanted: Any) -> bool:
    """Whether two entries of identities are the same; samples, when rounded to 16 bit as well."""
    if not isinstance(wanted, list) or not isinstance(found, list):
        return bool(found == wanted)
    pairs = zip_longest(found, wanted)
    return all(
        a is not None and b is not None and isclose(a, b, rel_tol=_ROUNDED) for a, b in pairs
    )


def default_path(identity: Mapping[str, Any]) -> Path:
    """Where the calibration of an identity is kept: in SDACCEL_CACHE or the user's cache.

    Rounded weights are the same weights, so they have no part in the name.
    """
    known = {key: value for key, value in identity.items() if key != "weights"}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
    name = str(identity["model"]).split()[0]
    return cache_folder() / "step_cache" / f"{name}-{digest}.json"


def named(part: Any) -> str:
    """A model's or a scheduler's class, and a short hash of its configuration."""
    config = {key: value for key, value in dict(part.config).items() if not key.startswith("_")}
    text = json.dumps(config, sort_keys=True, default=str)
    return f"{type(part).__name__} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _replaced(tables: tuple[Table, ...], newer: tuple[Table, ...]) -> tuple[Table, ...]:
    """All of the newer tables, and those for other steps or guidance scales."""
    known = {(each.steps, each.guidance) for each in newer}
    return (*(each for each in tables if (each.steps, each.guidance) not in known), *newer)


def _table(values: Mapping[str, Any]) -> Table:
    rows: Sequence[Mapping[str, Any]] = values["rows"]
    made = tuple(Row(**{**row, "full": tuple(row["full"])}) for row in rows)
    if not made:
        raise ValueError("a table without rows")
    return Table(**{**values, "rows": made})
