"""What a gate multiplies, waiting for the residual that it is added to: one pass instead of two.

Blocks of transformers write `hidden_states + gate * output`, at once or in two statements. In one
pass the gated output is not written and read again: 6 bytes an element in 16 bit instead of 10.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from .pending import Pending, aligned, broadcasts, version_of

if TYPE_CHECKING:
    import torch

FUSED = "gated residuals in one pass"


class Gated(Pending):
    """`gate` times `hidden_states` (B, ..., C), not yet computed; `ran` counts what was fused."""

    def __init__(self, hidden_states: torch.Tensor, gate: torch.Tensor, ran: Counter[str]) -> None:
        super().__init__(hidden_states)
        self._gate = gate
        self._gate_version = version_of(gate)
        self._ran = ran

    def _check_unchanged(self) -> None:
        super()._check_unchanged()
        if version_of(self._gate) != self._gate_version:
            raise RuntimeError(
                "A gate was changed in place before it was used; leave the pass 'fuse' out for "
                "this model."
            )

    def _compute(self) -> torch.Tensor:
        return self._like * self._gate

    def _plus(self, other: Any) -> Any:
        parts = self.parts_for(other)
        if parts is None:
            return self.value() + other
        self._ran[FUSED] += 1
        return gated_sum(other, *parts)

    def parts_for(self, residual: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Hidden states and gate, where both can be added to a residual in one pass."""
        if self._value is not None or not takes_residual(residual, self._like):
            return None
        self._check_unchanged()
        return self._like, self._gate


def takes_residual(residual: Any, hidden_states: torch.Tensor) -> bool:
    """Whether a residual has the shape and dtype of what is added to it."""
    return broadcasts(residual, hidden_states) and residual.shape == hidden_states.shape


def parted(one: Any, other: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Of two factors hidden states (B, ..., C) and their gate; None for what the op would copy.

    A gate is (C,), or has channels for each sample or for each token.
    """
    import torch

    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return None
    full, gate = (one, other) if one.numel() >= other.numel() else (other, one)
    if full.dim() < 2 or not broadcasts(gate, full):
        return None
    between = aligned(gate, full).shape[1:-1]
    views = all(size == 1 for size in between) or between == full.shape[1:-1]
    return (full, gate) if views and gate.shape[-1:] == full.shape[-1:] else None


def gated_sum(
    residual: torch.Tensor, hidden_states: torch.Tensor, gate: torch.Tensor
) -> torch.Tensor:
    """residual + gate * hidden_states in residual's dtype, rounded once."""
    from ..kernels.gated_residual import gated_residual

    return gated_residual(residual, hidden_states, aligned(gate, hidden_states))
