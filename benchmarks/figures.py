"""What a row holds beside its times: dtype, ceilings, memory, stages, and the pictures' quality."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdaccel.target import dtype_of

from .alone import measure_alone
from .errors import BenchmarkError
from .memory import release
from .rungs import Opened
from .stages import stage_seconds

if TYPE_CHECKING:
    import torch

    from .rows import Row
    from .workloads import Call, Workload


@dataclass
class Figures:
    """Fills the rows of a workload; quality is over `prompts`, against what stock drew of them."""

    workload: Workload
    prompts: int
    tell: Callable[[str], None]
    _stock: list[Any] = field(default_factory=list)

    def describe(self, row: Row, opened: Opened) -> None:
        """The dtype a rung computes in, and this machine's ceilings for it."""
        import torch

        from sdaccel import device

        network = getattr(opened.pipe, self.workload.networks_of(opened.pipe)[0])
        where = next(network.parameters()).device
        row.dtype = opened.dtype or str(dtype_of(network)).removeprefix("torch.")
        row.matmul_ceiling = device.matmul_ceiling(where, getattr(torch, row.dtype))
        row.copy_ceiling = device.copy_ceiling(where)

    def memory(self, row: Row) -> None:
        """The peaks of a process that runs only this rung."""
        self.tell(f"{row.rung}: memory, in a process of its own")
        release()
        try:
            memory = measure_alone(self.workload, row.rung)
        except BenchmarkError as error:
            row.notes.append(str(error))
            return
        row.setup_peak_memory, row.peak_memory = memory.setup, memory.steady
        row.host_memory = memory.host

    def stages(self, row: Row, opened: Opened, call: Call) -> None:
        """Where the time of a whole generation goes; one forward has no stages."""
        if self.workload.steps is None:
            return
        self.tell(f"{row.rung}: stages")
        with opened.surroundings():
            row.stages = stage_seconds(opened.pipe, call)

    def quality(self, row: Row, opened: Opened, output: torch.Tensor, truth: torch.Tensor) -> None:
        """PSNR of the timed drawing against stock's, then every metric over all the prompts."""
        whole = self.workload.steps is not None
        if whole and output is not truth and output.shape == truth.shape:
            found = _psnr(output, truth)
            row.quality.update({"psnr": found} if math.isfinite(found) else {})
        judge = (opened.workload or self.workload).judge
        if judge is None or not self.prompts:
            return
        if opened.fixed_shapes:
            row.notes.append("not judged: it draws several prompts at once")
            return
        self.tell(f"{row.rung}: drawing {self.prompts} prompts to judge it")
        with opened.surroundings():
            drawn = judge.draw(opened.pipe, self.prompts)
        if output is truth:
            self._stock = drawn
        row.quality.update(judge.quality(self._stock, drawn))


def _psnr(output: torch.Tensor, truth: torch.Tensor) -> float:
    """Of the first picture or clip of each, (3, H, W) or (frames, 3, H, W)."""
    from sdaccel.quality import psnr

    return psnr(*(each[0].movedim(-3, -1).cpu().numpy() for each in (output, truth)))
