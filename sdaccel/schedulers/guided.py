"""Predictions that are not computed yet: a step on a device combines the branches by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch


class Late(ABC):
    """What a step may be given in the place of a prediction."""

    @abstractmethod
    def value(self) -> torch.Tensor:
        """The prediction itself."""


class Guided(Late):
    """unguided + scale * (conditional - unguided), two tensors of one shape, dtype and device."""

    unguided: torch.Tensor
    conditional: torch.Tensor
    scale: float

    @abstractmethod
    def check_unchanged(self) -> None:
        """Raise RuntimeError where one of the two was written to in place meanwhile."""
