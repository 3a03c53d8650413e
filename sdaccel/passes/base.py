"""What a pass is: one optimisation that says what it does to the result."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Target


class Effect(str, enum.Enum):
    """What a pass does to the result, from nothing to something that must be judged."""

    EXACT = "exact"
    LOWER_PRECISION = "lower precision"
    APPROXIMATE = "approximate"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Pass(ABC):
    """One optimisation. Its dataclass fields are its options; it carries no state of its own.

    `order` sorts the passes of a plan (low first), `conflicts` names the passes that can't be in
    the same plan, `needs` those that must be. One that is `retried` is left out when a generation
    ends in NaN and runs again, as those are that aren't `EXACT`. `costly` says, as a clause, why
    it isn't applied just to see whether it would be.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    effect: ClassVar[Effect]
    order: ClassVar[int]
    conflicts: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    retried: ClassVar[bool] = False
    costly: ClassVar[str] = ""

    def refusal(self, target: Target) -> str | None:
        """One sentence on why this pass can't run on `target` at all, or None. Changes nothing."""
        return None

    @abstractmethod
    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        """Change `target` through `patch`, and tell `record` what was changed and left alone.

        A pass that changes nothing leaves `record.changed` empty: the report says so.
        """

    def calibrations(self, target: Target) -> list[tuple[Path, dict[str, Any]]]:
        """The files of calibrations for a pipe, whether they are there or not, and identities."""
        return []

    @property
    def options(self) -> dict[str, Any]:
        """The options as plain values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
