"""What a budget in dB chooses: the cheapest schedule that was measured to keep it.

The embedded models' calibrations come with the package; any other is the user's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from .calibration import Calibration, Part, T, default_path, identity_of, named
from .calibration_tables import Table, said
from .step_cache_schedule import Choice, Chooses

if TYPE_CHECKING:
    from ..target import Target

SHIPPED = Path(__file__).parent / "calibrations"
"""One file for each embedded model; `make calibrations` measures them anew."""
_VERSION = ("diffusers",)
_OPTIONS = ("options",)


def check_budget(budget: Any) -> None:
    """Raise `ValueError` for what is no budget."""
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if not number or not 0 < budget < math.inf:
        raise ValueError(f"budget is a PSNR in dB above 0, such as 34.0, not {budget!r}")


def budgets_together(budgets: Sequence[float]) -> float:
    """The PSNR in dB that is expected where several passes each keep theirs.

    Their errors have nothing to do with each other, so the mean squares add: two equal budgets make
    3 dB less.
    """
    return -10 * math.log10(sum(10 ** (-each / 10) for each in budgets))


def find_calibration(
    identity: Mapping[str, Any], file: str | None = None, part: Part = "tables"
) -> Calibration:
    """The calibration of an identity: a file's, else the user's, else one of the package's.

    The package's hold for any version of diffusers, what is on other passes for any options of
    step_cache. Raises `ValueError` where none with that part fits, with what stands against the
    file's or the user's.
    """
    but = () if part == "tables" else _OPTIONS
    own = default_path(identity) if file is None else Path(file)
    try:
        return Calibration.read(own, identity, but).part(part, own)
    except ValueError as error:
        for path in sorted(SHIPPED.glob("*.json")) if file is None else ():
            try:
                return Calibration.read(path, identity, (*but, *_VERSION)).part(part, path)
            except ValueError:
                continue
        raise error


def calibration_for(
    pipe: Any, model: Any, cut: Mapping[str, Any], file: str | None, part: Part = "tables"
) -> Calibration:
    """What was measured for a model of a pipe; `ValueError` with a sentence where nothing was."""
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None:
        raise ValueError("a budget needs a pipe with one scheduler")
    return find_calibration(identity_of(model, scheduler, cut), file, part)


def calibration_files(
    target: Target, cut: Mapping[str, Any], file: str | None
) -> list[tuple[Path, dict[str, Any]]]:
    """The files of calibrations for a pipe, whether they are there or not, and identities."""
    scheduler = getattr(target.pipe, "scheduler", None)
    if scheduler is None:
        return []
    models = [each.module for each in target.denoisers if hasattr(each.module, "config")]
    identities = [identity_of(model, scheduler, cut) for model in models]
    own = Path(file) if file else None
    return [(own or default_path(each), each) for each in identities]


class Measured(Generic[T]):
    """Tables of a calibration, and the `budget` dB of PSNR that what they hold is to keep."""

    def __init__(
        self, pipe: Any, calibration: Calibration, budget: float, tables: Sequence[T]
    ) -> None:
        self.budget = budget
        self._pipe = pipe
        self._calibration = calibration
        self._tables: Sequence[T] = tables

    @property
    def beyond(self) -> str | None:
        """That the budget is more than was measured, in a sentence; None where it is not."""
        best = max(table.best for table in self._tables)
        if self.budget <= best:
            return None
        return f"a budget of {self.budget} dB is more than was measured ({best:.1f} dB)"

    def table(self, total: int, *more: Any) -> tuple[T | None, str]:
        """What was measured for `total` steps of this call, and `more` of its key; or why not."""
        scheduler = named(self._pipe.scheduler)
        if scheduler != self._calibration.identity["scheduler"]:
            return None, f"calibrated for another scheduler than this {scheduler}"
        wanted = (total, guidance_scale_of(self._pipe), *more)
        found = next((each for each in self._tables if each.key == wanted), None)
        known = ", ".join(said(each.key) for each in self._tables)
        return found, f"calibrated for {known}, not for {said(wanted)}"


class Calibrated(Measured[Table]):
    """Chooses the cheapest schedule that was measured to keep the budget.

    Where nothing was measured `otherwise` chooses; without it all steps are full.
    """

    def __init__(
        self,
        pipe: Any,
        calibration: Calibration,
        budget: float,
        tables: Sequence[Table],
        otherwise: Chooses | None = None,
    ) -> None:
        super().__init__(pipe, calibration, budget, tables)
        self._otherwise = otherwise

    def choose(self, total: int) -> Choice:
        """The full steps, all of them where nothing was measured that keeps the budget."""
        table, reason = self.table(total)
        if table is None:
            return self._uncalibrated(total, reason)
        row = table.cheapest(self.budget)
        if row is None:
            return _nothing(total, f"calibrated up to {table.best:.1f} dB at {total} steps")
        return Choice(
            frozenset(row.full),
            row.forecast,
            whole=row.skip == "whole",
            variable=row.variable,
            measured=True,
        )

    def _uncalibrated(self, total: int, reason: str) -> Choice:
        if self._otherwise is None:
            return _nothing(total, reason)
        choice = self._otherwise.choose(total)
        return replace(choice, reason=choice.reason or f"no budget is kept, {reason}")


def _nothing(total: int, reason: str) -> Choice:
    return Choice.everything(total, f"nothing is skipped, {reason}")


def guidance_scale_of(pipe: Any) -> float | None:
    """The guidance scale of the call that a pipe is in, where it keeps one."""
    found = getattr(pipe, "_guidance_scale", None)
    return round(float(found), 4) if isinstance(found, (int, float)) else None
