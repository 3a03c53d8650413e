"""How long work takes at about these rates, for passes that must know whether skipping some pays.

What decides is a ratio of two times, known before anything runs and the same in every run: a pass
that changes the picture must not decide by a clock. A CPU's rates are about those of one core of an
AMD EPYC (Zen 5) in products that its caches hold, so rather high; a GPU's are half of what its data
sheet says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..known_gpus import known_gpu

if TYPE_CHECKING:
    import torch

_SHARE = 0.5
"""Of a data sheet's rate, what products and attention reach."""


@dataclass(frozen=True)
class Rates:
    """Floating point operations and bytes a second, and the seconds that starting an op takes."""

    flops: float
    bytes: float
    launch: float

    def seconds(self, flops: float = 0.0, size: float = 0.0, launches: float = 0.0) -> float:
        """The time that so much work takes."""
        return flops / self.flops + size / self.bytes + launches * self.launch


_CPU = Rates(flops=1e11, bytes=5e9, launch=8e-6)
# an A100's, for a GPU that no table knows
_GPU = Rates(flops=_SHARE * 312e12, bytes=_SHARE * 1.6e12, launch=8e-6)


def rates_of(device: torch.device) -> Rates:
    """The rates to expect of a device."""
    import torch

    if device.type != "cuda" or not torch.cuda.is_available():
        return _CPU if device.type == "cpu" else _GPU
    known = known_gpu(torch.cuda.get_device_name(device))
    if known is None:
        return _GPU
    return Rates(_SHARE * 1e12 * known.fp16, _SHARE * 1e9 * known.bandwidth, _GPU.launch)
