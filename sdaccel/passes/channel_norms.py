"""RMS norms over the channels of feature maps (B, C, T, H, W), as the VAEs of Wan and Qwen-Image.

    y = x / |x| * sqrt(C) * gamma

Stock normalises in fp32, rounds, and multiplies twice, thirteen reads and writes of a feature map
in 16 bit. The length is one number a place, so that division and sqrt(C) are one factor: five.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .swap import RAN, Forward, Swap, plainly, swap


def channel_norm_rule(module: Any) -> Iterator[Swap]:
    """A norm over channels; one of rows is left."""
    if module.channel_first:
        yield swap(module, _scaled, "norm over channels", 8)


def _scaled(stock: Forward) -> Forward:
    def forward(self: Any, x: Any) -> Any:
        import torch

        if not plainly(x) or self.gamma.dtype != x.dtype:
            return stock(self, x)
        self.__dict__[RAN]["norms over channels in fewer passes"] += 1
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        # The factor stays fp32: rounded, all channels of a place would err alike.
        y = torch.mul(x, self.scale / length.clamp_min_(1e-12), out=torch.empty_like(x))
        y.mul_(self.gamma)
        return y.add_(self.bias) if isinstance(self.bias, torch.Tensor) else y

    return forward
