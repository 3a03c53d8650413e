"""A residual and what is added to it, waiting for their norm: one pass over memory instead of two.

Blocks of transformers add to the stream, normalise it and go on with both. In one pass the norm
does not read the stream again: 8 bytes an element in 16 bit instead of 10. Which sums wait is read
from a block's source (`waiting`), so that none leaves it. A norm that wants one gets a `NormOfSum`;
whoever asks first, for the norm or for the sum, computes, and the other finds what is there.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from .deferred import Deferred
from .gated import FUSED, gated_sum
from .norms import can_be_left_out, in_its_dtype, norm_of
from .pending import Pending, aligned, version_of

if TYPE_CHECKING:
    import torch


_GATED = "gated residuals and norms in one pass"
_PLAIN = "residuals and norms in one pass"


class Summed(Pending):
    """`residual` plus `gate` times `hidden_states` (B, ..., C), not yet computed.

    A gate of None adds them as they are. `ran` counts what was fused.
    """

    def __init__(
        self,
        residual: torch.Tensor,
        hidden_states: torch.Tensor,
        gate: torch.Tensor | None,
        ran: Counter[str],
    ) -> None:
        super().__init__(residual)
        self._hidden_states = hidden_states
        self._gate = gate
        self._versions = self._added_versions()
        self._ran = ran

    @property
    def waits(self) -> bool:
        """Whether nobody has asked for it yet."""
        return self._value is None

    @property
    def like(self) -> torch.Tensor:
        """A tensor of the same shape, dtype and device: the sum, where it is computed."""
        return self._like

    def norm(self, module: Any) -> NormOfSum | None:
        """What a norm makes of it, not yet computed; None where the module has to be called."""
        known = self.waits and can_be_left_out(module, self._like)
        if not known or not in_its_dtype(module, self._like):
            return None
        return NormOfSum(self, norm_of(module), self._ran)

    def normed(
        self, norm: dict[str, Any], factor: torch.Tensor | None, summand: torch.Tensor | None
    ) -> torch.Tensor:
        """The norm, times a factor, plus a summand; the sum is known from now on."""
        from ..kernels.gated_residual_norm import gated_residual_norm

        self.check_unchanged()
        self._ran[_PLAIN if self._gate is None else _GATED] += 1
        gate = None if self._gate is None else aligned(self._gate, self._like)
        total, y = gated_residual_norm(
            self._like, self._hidden_states, gate, factor, summand, scale_offset=0.0, **norm
        )
        self._is(total)
        return y

    def value(self) -> torch.Tensor:
        """The sum, computed once; what it was computed from is let go."""
        if self._value is None:
            self._is(super().value())
        assert self._value is not None
        return self._value

    def check_unchanged(self) -> None:
        """Raise RuntimeError where what it is computed from, or the sum itself, was changed."""
        super()._check_unchanged()
        if self._added_versions() != self._versions:
            raise RuntimeError(
                "What is added to a residual was changed in place before it was used; leave the "
                "pass 'fuse' out for this model."
            )

    _check_unchanged = check_unchanged

    def _compute(self) -> torch.Tensor:
        if self._gate is None:
            return self._like + self._hidden_states
        self._ran[FUSED] += 1
        return gated_sum(self._like, self._hidden_states, self._gate)

    def _is(self, value: torch.Tensor) -> None:
        self._value = self._like = self._hidden_states = value
        self._gate = None
        self._version, self._versions = version_of(value), self._added_versions()

    def _added_versions(self) -> list[int | None]:
        added = (self._hidden_states, self._gate)
        return [None if each is None else version_of(each) for each in added]


class NormOfSum(Deferred):
    """The norm of a sum, times `factor` where there is one, not yet computed."""

    def __init__(
        self,
        total: Summed,
        norm: dict[str, Any],
        ran: Counter[str],
        factor: torch.Tensor | None = None,
    ) -> None:
        super().__init__(total.like, norm, ran, factor)
        self._total = total

    def _compute(self, summand: torch.Tensor | None = None) -> torch.Tensor:
        if self._total.waits:
            return self._total.normed(self._norm, self._factor, summand)
        self._like = self._total.value()
        return super()._compute(summand)

    def _check_unchanged(self) -> None:
        self._total.check_unchanged()

    def _scaled_by(self, factor: torch.Tensor) -> Deferred:
        return NormOfSum(self._total, self._norm, self._ran, factor)
