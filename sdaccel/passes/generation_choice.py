"""What a schedule has chosen for the generation that is under way, and where its steps lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sampler_times import SamplerTimes, point_of

if TYPE_CHECKING:
    from ..clock import Clock
    from ..report import PassRecord
    from .step_cache_schedule import Choice, Chooses


class GenerationChoice:
    """Chosen when a generation's number of steps is known, kept until it is reset.

    What a choice says for itself becomes a note of the report, under `name`.
    """

    def __init__(self, name: str, clock: Clock, schedule: Chooses, record: PassRecord) -> None:
        self.times = SamplerTimes(clock)
        self.schedule = schedule
        self._name = name
        self._record = record
        self._chosen: tuple[int, Choice, list[float]] | None = None

    def of(self, total: int) -> Choice:
        """The choice for a generation of `total` steps."""
        return self._of(total)[0]

    def point(self, step: int, total: int) -> float:
        """Where a step lies in the variable of the choice's forecasts."""
        return point_of(step, self._of(total)[1])

    def reset(self) -> None:
        """A generation begins, or the pipe's call is over."""
        self._chosen = None

    def _of(self, total: int) -> tuple[Choice, list[float]]:
        if self._chosen is None or self._chosen[0] != total:
            choice = self.schedule.choose(total)
            points, reason = self.times.points_for(choice, total)
            self._chosen = total, choice, points
            for each in filter(None, (choice.reason, reason)):
                self._record.note(f"{self._name}: {each}")
        return self._chosen[1:]
