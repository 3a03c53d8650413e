"""Weights that wait in host memory while tables stand in for what they compute.

The parameters stay what they are, their values lie elsewhere: they are read, saved and copied as
before, and come back to the device when somebody computes with them. A table is computed from them
where they wait: each comes to the device for its own operation, and goes again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

RESIDENT = 128 << 20
"""Bytes of a table; where weights are released, a larger one waits in host memory as well."""
_AWAY = "_sdaccel_away"


def gains_memory(device: torch.device) -> bool:
    """Whether weights that leave a device for host memory leave it any more room."""
    return device.type != "cpu"


def is_away(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a weight that waits in host memory."""
    return _AWAY in getattr(tensor, "__dict__", {})


@dataclass
class Released:
    """The weights of one model that wait in host memory."""

    model: torch.nn.Module
    weights: list[torch.nn.Parameter] = field(default_factory=list)

    def release(self, weights: Iterable[torch.nn.Parameter]) -> int:
        """Let weights leave their device, whose peak is counted anew; returns the bytes spared."""
        import torch

        leaving = [each for each in weights if not is_away(each)]
        if not leaving:
            return 0
        device = leaving[0].device
        with torch.no_grad():
            for weight in leaving:
                weight.data = _in_host_memory(weight.data)
                weight.__dict__[_AWAY] = True
        self.weights += leaving
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        return sum(each.nbytes for each in leaving)

    def bring_back(self) -> int:
        """Let all that are away return to the model's device, as they are now; returns how many.

        What was made beside them meanwhile, such as an adapter's weights, comes along.
        """
        import torch

        weights, self.weights = self.weights, []
        if not weights:
            return 0
        for weight in weights:
            del weight.__dict__[_AWAY]
        home = _home(self.model, weights)
        with torch.no_grad():
            for weight in (*weights, *self.model.parameters()):
                if home is not None and weight.device != home:
                    weight.data = weight.data.to(home)
        return len(weights)


def _home(model: torch.nn.Module, away: Iterable[torch.nn.Parameter]) -> torch.device | None:
    """The device of the weights that are not away; their own, where all are."""
    out = set(map(id, away))
    found: Iterator[torch.nn.Parameter] = (each for each in model.parameters())
    return next((each.device for each in found if id(each) not in out), None)


def _in_host_memory(data: torch.Tensor) -> torch.Tensor:
    """A copy in memory that the device can read by itself, where the device is a GPU."""
    import torch

    pinned = data.device.type == "cuda"
    copy = torch.empty_strided(data.shape, data.stride(), dtype=data.dtype, pin_memory=pinned)
    return copy.copy_(data)


def peak_of(device: torch.device) -> int:
    """The most bytes of a GPU that have been taken since that was last counted anew; else 0."""
    import torch

    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
