"""A fixed workload, timed between the samples: it tells a machine that changes from noise.

A processor that heats up, or a neighbour that comes or goes, changes it as it changes the samples;
what the rungs do does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import measure

if TYPE_CHECKING:
    import torch

_SIDE = {"cpu": 512}
"""Of the matrices: 0.27 GFLOP on a CPU, 3 ms on two cores; 137 GFLOP on a GPU, 3 ms on an H100."""
_GPU_SIDE = 4096
_CALLS = 5


class Canary:
    """A call gives the seconds of one fp32 matmul: of five the best, as a blip doesn't count."""

    def __init__(self, device: torch.device) -> None:
        import torch

        side = _SIDE.get(device.type, _GPU_SIDE)
        generator = torch.Generator(device).manual_seed(0)
        self._left, self._right = torch.randn(2, side, side, device=device, generator=generator)
        self._product = torch.empty_like(self._left)

    def __call__(self) -> float:
        return min(measure.timed(self._multiply)[1] for _ in range(_CALLS))

    def _multiply(self) -> torch.Tensor:
        import torch

        return torch.mm(self._left, self._right, out=self._product)
