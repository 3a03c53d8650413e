"""A norm that waits for its modulation, so that norm, scale and shift are one pass over memory.

Transformers of diffusion models write `norm(x) * (1 + scale) + shift` in some 60 files, in as many
ways. Here the norm returns a `Deferred`, which takes a product and a sum and then computes all
three at once. Whatever else it is asked for, it computes the norm, once, and is that tensor.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from .pending import Pending, aligned, broadcasts

if TYPE_CHECKING:
    import torch

FUSED = "norms fused with their modulation"


class Deferred(Pending):
    """The norm of `hidden_states` (B, ..., C), times `factor` where there is one, not yet computed.

    `norm` holds the op's arguments by name (weight, bias, kind, eps), `ran` counts what was fused.
    """

    def __init__(
        self,
        hidden_states: torch.Tensor,
        norm: dict[str, Any],
        ran: Counter[str],
        factor: torch.Tensor | None = None,
    ) -> None:
        super().__init__(hidden_states)
        self._norm = norm
        self._ran = ran
        self._factor = factor

    def _compute(self, summand: torch.Tensor | None = None) -> torch.Tensor:
        from ..kernels.norm_modulate import norm_modulate

        if self._factor is not None or summand is not None:
            self._ran[FUSED] += 1
        return norm_modulate(self._like, self._factor, summand, scale_offset=0.0, **self._norm)

    def _scaled_by(self, factor: torch.Tensor) -> Deferred:
        return Deferred(self._like, self._norm, self._ran, factor)

    def _times(self, other: Any) -> Any:
        if self._factor is None and self._value is None and broadcasts(other, self._like):
            return self._scaled_by(aligned(other, self._like))
        return self.value() * other

    def _plus(self, other: Any) -> Any:
        if self._value is None and broadcasts(other, self._like):
            self._check_unchanged()
            return self._compute(aligned(other, self._like))
        return self.value() + other
