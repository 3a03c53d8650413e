"""Progress bars of a build: one for the phase that is under way, as TensorRT tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Bars = Callable[..., Any]
"""tqdm, or what is called like it: `desc`, `total` and `leave`."""


def monitor(package: Any, bars: Bars | None = None) -> Any:
    """What TensorRT tells its progress to; `stopped` says whether the user interrupted it.

    A phase within a phase has a bar below. `close` takes away what an error has left.
    """

    class Monitor(package.IProgressMonitor):
        def __init__(self) -> None:
            package.IProgressMonitor.__init__(self)
            self.stopped = False
            self._open: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._open[phase_name] = (bars or _tqdm())(
                desc=phase_name, total=num_steps, leave=False, disable=None
            )

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if phase_name in self._open:
                    self._open[phase_name].update(1)
            except KeyboardInterrupt:
                self.stopped = True
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self._open:
                self._open.pop(phase_name).close()

        def close(self) -> None:
            for name in tuple(self._open):
                self.phase_finish(name)

    return Monitor()


def _tqdm() -> Bars:
    from tqdm import tqdm

    found: Bars = tqdm
    return found
