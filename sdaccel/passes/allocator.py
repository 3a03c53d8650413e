"""Freed memory stays in the process, so that the next layer finds its pages there.

glibc hands every large block back to the kernel, and each layer's activations are fresh pages to be
zeroed again: one forward of SD1.5's UNet took 166,634 page faults, and 1 with this pass (`malloc`
has the measurements). The setting belongs to the process, not to the pipe.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .. import malloc
from .base import Effect, Pass

if TYPE_CHECKING:
    from ..clock import Clock
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Target


@dataclass(frozen=True)
class Allocator(Pass):
    """Keep freed memory in the process, on a CPU with glibc."""

    name: ClassVar[str] = "allocator"
    summary: ClassVar[str] = "freed memory stays in the process (for the whole process)"
    effect: ClassVar[Effect] = Effect.EXACT
    order: ClassVar[int] = 10

    def refusal(self, target: Target) -> str | None:
        if target.device.type != "cpu":
            return f"the pipe runs on {target.device}, whose memory torch's own allocator keeps"
        return malloc.refusal()

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        give_back = malloc.keep_freed_memory()
        patch.on_undo(give_back)
        weakref.finalize(target.pipe, give_back).atexit = False
        record.changed["malloc settings, for the whole process"] = 2
        faults = FaultsPerGeneration(record, target.clock)
        target.clock.listeners.append(faults.begin)
        target.clock.end_listeners.append(faults.end)


class FaultsPerGeneration:
    """Notes how many pages the kernel had to bring in during each generation but the first.

    The first fills the heap, and may compile.
    """

    def __init__(self, record: PassRecord, clock: Clock) -> None:
        self._record = record
        self._clock = clock
        self._before: int | None = None

    def begin(self) -> None:
        """Called when a generation begins."""
        self._before = malloc.page_faults() if self._clock.generation > 1 else None

    def end(self) -> None:
        """Called when the pipe's call is over: what the process does between calls is left out."""
        if self._before is not None:
            self._record.ran["generations watched"] += 1
            self._record.ran["page faults in them"] += malloc.page_faults() - self._before
        self._before = None
