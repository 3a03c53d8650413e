"""Rows and the files they are kept in: one row a rung, one file a run of one workload."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from . import samples
from .errors import ResultsError
from .shifts import Shift, shift

if TYPE_CHECKING:
    from typing_extensions import Self

SCHEMA = 1
STATUSES = ("ok", "did nothing", "skipped", "wrong", "failed", "out of memory")


@dataclass
class Row:
    """One rung of one workload: what it is, whether it is right, and then how fast.

    Times are in seconds per `unit`, memory in bytes: the device's, and with a GPU `host_memory`
    beside it. `error` is the relative L2 distance of the
    output from stock fp32, `stolen` the largest share of the processors that a virtual machine's
    host kept during a sample of these or of stock's. `canary_seconds` are what a fixed workload
    took between the samples, `stages` seconds per unit from calls of their own. A value that was
    not measured is None.
    """

    workload: str
    rung: str
    kind: str
    effect: str
    unit: str
    quick: bool = False
    status: str = "ok"
    reason: str = ""
    dtype: str = "float32"
    error: float | None = None
    error_limit: float | None = None
    seconds: list[float] = field(default_factory=list)
    baseline_seconds: list[float] = field(default_factory=list)
    stolen: float | None = None
    canary_seconds: list[float] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    setup_seconds: float | None = None
    calls_per_picture: int = 1
    target_seconds: float | None = None
    flops: float | None = None
    matmul_ceiling: float | None = None
    copy_ceiling: float | None = None
    peak_memory: int | None = None
    setup_peak_memory: int | None = None
    host_memory: int | None = None
    quality: dict[str, float] = field(default_factory=dict)
    passes: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    DERIVED: ClassVar[tuple[str, ...]] = (
        "median",
        "interquartile_range",
        "noisy",
        "drift",
        "per_second",
        "speedup",
        "speedup_low",
        "speedup_high",
        "matmul_share",
        "pays_after",
    )
    """What `to_dict` writes beside the fields."""

    @property
    def median(self) -> float | None:
        """Seconds per unit."""
        return samples.median(self.seconds) if self.seconds else None

    @property
    def interquartile_range(self) -> float | None:
        """The spread of the middle half of the samples, in seconds."""
        return _number(samples.interquartile_range(self.seconds))

    @property
    def noisy(self) -> bool:
        """Whether these samples, or stock's beside them, spread above 10% or were disturbed.

        Disturbed: the host took processors, or the machine's speed drifted meanwhile.
        """
        if (self.stolen or 0.0) > samples.STOLEN or self.drift > samples.DRIFT:
            return True
        taken = [each for each in (self.seconds, self.baseline_seconds) if each]
        return any(samples.is_noisy(each) for each in taken)

    @property
    def drift(self) -> float:
        """How much the slowest reading of the canary exceeds the fastest; 0 without readings."""
        return samples.drift(self.canary_seconds)

    @property
    def per_second(self) -> float | None:
        """Units a second."""
        return 1 / samples.median(self.seconds) if self.seconds else None

    @property
    def speedup(self) -> float | None:
        """How many times faster than the stock samples that were taken in turns with these."""
        if not (self.seconds and self.baseline_seconds):
            return None
        return samples.median(self.baseline_seconds) / samples.median(self.seconds)

    @property
    def speedup_low(self) -> float | None:
        """The lower end of the 95% interval of the speed-up; None below six rounds."""
        return None if self._shift is None else self._shift.low

    @property
    def speedup_high(self) -> float | None:
        """The upper end of it."""
        return None if self._shift is None else self._shift.high

    @property
    def matmul_share(self) -> float | None:
        """The floating point operations per second, as a share of the measured matmul ceiling."""
        if not (self.flops and self.matmul_ceiling and self.seconds):
            return None
        return self.flops / samples.median(self.seconds) / self.matmul_ceiling

    @property
    def pays_after(self) -> float | None:
        """Pictures until compiling and warming up are earned back; None where they never are."""
        if self.setup_seconds is None or not (self.seconds and self.baseline_seconds):
            return None
        stock, faster = samples.median(self.baseline_seconds), samples.median(self.seconds)
        pictures = samples.pays_after(self.setup_seconds, stock, faster, self.calls_per_picture)
        return _number(pictures)

    @property
    def _shift(self) -> Shift | None:
        """From this rung to stock, whose i-th sample was taken beside the rung's i-th."""
        if len(self.seconds) != len(self.baseline_seconds):
            return None
        return shift(self.seconds, self.baseline_seconds, paired=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the fields, and for readers of the JSON what follows from them."""
        values = asdict(self)
        for name in self.DERIVED:
            values[name] = getattr(self, name)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; raises `ResultsError` for what is no row."""
        names = {each.name for each in fields(cls)}
        try:
            row = cls(**{name: value for name, value in values.items() if name in names})
        except (TypeError, AttributeError) as error:
            raise ResultsError(f"This is no row of results: {error}.") from error
        if row.status not in STATUSES:
            raise ResultsError(
                f"A row has the status {row.status!r}; one of {STATUSES} was expected."
            )
        return row


@dataclass
class Results:
    """A run of one workload: its rows, and the machine, versions and command they came from."""

    workload: str
    date: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    rows: list[Row] = field(default_factory=list)

    ROW: ClassVar[type[Row]] = Row
    """What its rows are read as."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the schema's number."""
        values: dict[str, Any] = {"schema": SCHEMA}
        values.update({each.name: getattr(self, each.name) for each in fields(self)})
        values["rows"] = [row.to_dict() for row in self.rows]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; raises `ResultsError` for another schema or no results."""
        if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
            raise ResultsError(f"These are no benchmark results of schema {SCHEMA}.")
        try:
            kept = {each.name: values[each.name] for each in fields(cls)}
        except KeyError as error:
            raise ResultsError(f"These benchmark results lack {error}.") from error
        kept["rows"] = [cls.ROW.from_dict(row) for row in kept["rows"]]
        return cls(**kept)

    def write(self, path: Path) -> None:
        """Write the file whole or not at all, so that an interrupt leaves the rows so far."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        os.replace(beside, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The inverse of `write`; raises `ResultsError` with the path in its sentence."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ResultsError(f"{path} can't be read: {error.strerror}.") from error
        except (ValueError, ResultsError) as error:
            raise ResultsError(f"{path} holds no readable results: {error}") from error


def _number(value: float) -> float | None:
    """None for what JSON has no number for."""
    return value if math.isfinite(value) else None
