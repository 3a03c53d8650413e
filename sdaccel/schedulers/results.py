"""What a step returns: stock's own output, or a tuple that computes its second part when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..errors import SdaccelError


class Pair(tuple[Any, ...]):
    """(next sample, what stock returns beside it); the second is computed when it is first read.

    Pipelines take the first and drop the rest. Reading the second from inputs that have been
    changed in place since raises `SdaccelError`.
    """

    _late: tuple[Any, ...] | None
    _second: torch.Tensor

    def __new__(
        cls,
        result: torch.Tensor,
        compute: Callable[..., tuple[torch.Tensor, ...]],
        step: Any,
        inputs: tuple[torch.Tensor | None, ...],
    ) -> Pair:
        """`compute(step, *inputs)` gives the second part, in a tuple of its own."""
        self = tuple.__new__(cls, (result, None))
        self._late = compute, step, inputs, _versions(inputs)
        return self

    def __getitem__(self, index: Any) -> Any:
        return tuple.__getitem__(self, 0) if index == 0 else self._whole()[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._whole())

    def __repr__(self) -> str:
        return repr(self._whole())

    def _whole(self) -> tuple[Any, ...]:
        if self._late is not None:
            compute, step, inputs, versions = self._late
            if versions != _versions(inputs):
                raise SdaccelError(
                    "The step's input was changed in place before its second result was read: "
                    "read it first, or call step with return_dict=True."
                )
            (self._second,) = compute(step, *inputs)
            self._late = None
        return (tuple.__getitem__(self, 0), self._second)


def _versions(inputs: tuple[torch.Tensor | None, ...]) -> list[int]:
    return [each._version for each in inputs if each is not None and not each.is_inference()]


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor has been changed in place; -1 where torch does not count."""
    return -1 if tensor.is_inference() else tensor._version
