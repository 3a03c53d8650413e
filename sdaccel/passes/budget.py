"""What a budget in dB chooses: the cheapest schedule that was measured to keep it.

The embedded models' calibrations come with the package; any other is the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .calibration import Calibration, default_path, named
from .step_cache_schedule import Choice, Chooses

SHIPPED = Path(__file__).parent / "calibrations"
"""One file for each embedded model; `make calibrations` measures them anew."""
_VERSION = ("diffusers",)


def find_calibration(identity: Mapping[str, Any], file: str | None = None) -> Calibration:
    """The calibration of an identity: a file's, else the user's, else one of the package's.

    The package's hold for any version of diffusers. Raises `ValueError` where none fits, with what
    stands against the file's or the user's.
    """
    if file is not None:
        return Calibration.read(Path(file), identity)
    try:
        return Calibration.read(default_path(identity), identity)
    except ValueError as error:
        for path in sorted(SHIPPED.glob("*.json")):
            try:
                return Calibration.read(path, identity, but=_VERSION)
            except ValueError:
                continue
        raise error


class Calibrated:
    """Chooses the cheapest schedule that was measured to keep `budget` dB of PSNR.

    Where nothing was measured `otherwise` chooses; without it all steps are full.
    """

    def __init__(
        self, pipe: Any, calibration: Calibration, budget: float, otherwise: Chooses | None = None
    ) -> None:
        self._pipe = pipe
        self._otherwise = otherwise
        self._calibration = calibration
        self._budget = budget

    def choose(self, total: int) -> Choice:
        """The full steps, all of them where nothing was measured that keeps the budget."""
        tables, guidance = self._calibration.tables, guidance_scale_of(self._pipe)
        scheduler = named(self._pipe.scheduler)
        if scheduler != self._calibration.identity["scheduler"]:
            reason = f"calibrated for another scheduler than this {scheduler}"
            return self._uncalibrated(total, reason)
        fitting = [each for each in tables if (each.steps, each.guidance) == (total, guidance)]
        if not fitting:
            known = ", ".join(_said(each.steps, each.guidance) for each in tables)
            reason = f"calibrated for {known}, not for {_said(total, guidance)}"
            return self._uncalibrated(total, reason)
        row = fitting[0].cheapest(self._budget)
        if row is None:
            return _nothing(total, f"calibrated up to {fitting[0].best:.1f} dB at {total} steps")
        return Choice(
            frozenset(row.full), row.forecast, whole=row.skip == "whole", variable=row.variable
        )

    def _uncalibrated(self, total: int, reason: str) -> Choice:
        if self._otherwise is None:
            return _nothing(total, reason)
        choice = self._otherwise.choose(total)
        return replace(choice, reason=choice.reason or f"no budget is kept, {reason}")


def _said(steps: int, guidance: float | None) -> str:
    return f"{steps} steps" + ("" if guidance is None else f" at guidance {guidance}")


def _nothing(total: int, reason: str) -> Choice:
    return Choice.everything(total, f"nothing is skipped, {reason}")


def guidance_scale_of(pipe: Any) -> float | None:
    """The guidance scale of the call that a pipe is in, where it keeps one."""
    found = getattr(pipe, "_guidance_scale", None)
    return round(float(found), 4) if isinstance(found, (int, float)) else None
