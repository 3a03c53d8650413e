"""Predictions that are not computed yet: a step on a device combines the branches by itself."""

from __future__ import annotations

import torch


class Late:
    """What a step may be given in the place of a prediction."""

    def value(self) -> torch.Tensor:
        """The prediction itself."""
        raise NotImplementedError


class Guided(Late):
    """unguided + scale * (conditional - unguided), two tensors of one shape, dtype and device."""

    unguided: torch.Tensor
    conditional: torch.Tensor
    scale: float

    def check_unchanged(self) -> None:
        """Raise RuntimeError where one of the two was written to in place meanwhile."""
        raise NotImplementedError
