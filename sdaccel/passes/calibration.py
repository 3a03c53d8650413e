"""How far what approximate passes do is from stock's pictures: measured once, kept on disk.

One JSON file a model, by class, configuration and samples of its weights, scheduler, options of
step_cache and version of diffusers; in it a table for each number of steps and guidance scale, of
step_cache's schedules, of those of guidance, and of what sparse_attention keeps, for each size of a
clip. To the latter two the options are nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from math import isclose
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..kernels.native import cache_folder
from .calibration_tables import KeptTable, Table

T = TypeVar("T", Table, KeptTable)

_SAMPLES = 32
_ROUNDED = 2**-7
"""Twice what rounding to bf16 changes at most, relative to the value."""
_ADAPTER = "lora_"
_VERSION = 3
"""Of the file: 1 had no version in it, and nothing on guidance, 2 nothing on sparse_attention."""
Part = Literal["tables", "guidance", "sparse_attention"]


@dataclass(frozen=True)
class Calibration:
    """The tables of one `identity`: model, weights, scheduler, options of the pass, version.

    `tables` are step_cache's, the others those of the pass of that name.
    """

    identity: Mapping[str, Any]
    tables: tuple[Table, ...]
    guidance: tuple[Table, ...] = ()
    sparse_attention: tuple[KeptTable, ...] = ()

    def under(self, other: Calibration) -> Calibration:
        """This calibration with the tables of another, which count for more."""
        return Calibration(
            self.identity,
            _replaced(self.tables, other.tables),
            _replaced(self.guidance, other.guidance),
            _replaced(self.sparse_attention, other.sparse_attention),
        )

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
            tables = tuple(Table.parsed(each) for each in values["tables"])
            guidance = tuple(Table.parsed(each) for each in values.get("guidance", ()))
            sparse = tuple(KeptTable.parsed(each) for each in values.get("sparse_attention", ()))
            found = dict(values["identity"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the calibration {path} can't be read ({error}): {HOW}") from error
        if version > _VERSION:
            raise ValueError(f"the calibration {path} is of a newer sdaccel: {HOW}")
        wanted = {key: value for key, value in identity.items() if key not in but}
        other = [key for key in wanted if not _agree(found.get(key), wanted[key])]
        if other or not (tables or guidance or sparse):
            what = ", ".join(other) or "number of steps"
            raise ValueError(f"the calibration {path} is of another {what}: {HOW}")
        return cls(found, tables, guidance, sparse)

    def part(self, part: Part, path: Path) -> Calibration:
        """This calibration, where it has that part; `ValueError` with a sentence otherwise."""
        if not getattr(self, part):
            name = "step_cache" if part == "tables" else part
            raise ValueError(f"the calibration {path} has nothing on {name}: {HOW}")
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


def _replaced(tables: tuple[T, ...], newer: tuple[T, ...]) -> tuple[T, ...]:
    """All of the newer tables, and those for other generations."""
    others = (each for each in tables if not any(each.is_for_those_of(one) for one in newer))
    return tuple(chain(others, newer))
