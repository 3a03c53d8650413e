"""Whether weights that were compiled in as constants are still those of the module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SAMPLES = 16
"""Values looked at per weight: merging an adapter changes nearly all of them, so a few suffice."""


@dataclass(frozen=True)
class Fingerprint:
    """Which tensors a module's weights are, how often each was written in place, and some values.

    A write through `.data` leaves the count as it was and shows in the values alone.
    """

    identity: tuple[tuple[int, int, int], ...]
    values: bytes

    @classmethod
    def of(cls, module: torch.nn.Module) -> Fingerprint:
        """Read a module's parameters and buffers; waits for the device."""
        import torch

        weights = [*module.parameters(), *module.buffers()]
        with torch.no_grad():
            samples = [_sample(each).to("cpu", torch.float64) for each in weights]
        identity = tuple((id(each), each.data_ptr(), each._version) for each in weights)
        values = torch.cat(samples).numpy().tobytes() if samples else b""
        return cls(identity, values)


def _sample(weight: torch.Tensor) -> torch.Tensor:
    """Values spread evenly over a tensor, whatever its strides, without copying all of it."""
    import torch

    weight = weight.detach()
    extent = 1 + sum(
        (size - 1) * step for size, step in zip(weight.shape, weight.stride(), strict=True)
    )
    if weight.numel() == 0:
        return weight.reshape(-1)
    count = min(_SAMPLES, extent)
    step = max(1, extent // count)
    return torch.as_strided(weight, (count,), (step,), weight.storage_offset())
