"""Which sizes a graph takes, by the shapes that its manifest gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    import torch

    from .manifest import TensorInfo

_SYMBOL = re.compile(r"[A-Za-z_]\w*")
_MULTIPLE = re.compile(r"(\d+)\s*\*\s*([A-Za-z_]\w*)")


def check_sizes(inputs: Iterable[TensorInfo], given: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """What each symbol stands for; raises `InputError` for a shape that the graph does not take.

    A timestep without dimensions passes for one a sample.
    """
    values: dict[str, int] = {}
    for info in inputs:
        shape = tuple(given[info.name].shape)
        if len(info.shape) == 1 and not shape:
            continue
        if len(shape) != len(info.shape) or not _fits(info.shape, shape, values):
            raise InputError(
                f"'{info.name}' of shape {shape} is outside of what the graph allows, "
                f"({', '.join(map(str, info.shape))}): draw at such a size, or export the pipeline "
                "again for this one."
            )
    return values


def resolved(shape: Sequence[int | str], values: Mapping[str, int]) -> tuple[int, ...] | None:
    """The numbers of a shape, once the symbols' values are known; None where one is not."""
    sizes = [_value(each, values) for each in shape]
    return None if None in sizes else tuple(each for each in sizes if each is not None)


def symbol_values(
    inputs: Iterable[TensorInfo], given: Mapping[str, torch.Tensor]
) -> dict[str, int]:
    """What each symbol of the inputs' shapes stands for in these tensors."""
    values: dict[str, int] = {}
    for info in inputs:
        _fits(info.shape, tuple(given[info.name].shape), values)
    return values


def _fits(shape: Sequence[int | str], sizes: Sequence[int], values: dict[str, int]) -> bool:
    """Whether sizes are of a shape; `values` gains what symbols stand for."""
    for expected, size in zip(shape, sizes, strict=True):
        if isinstance(expected, int):
            if expected != size:
                return False
            continue
        found = _MULTIPLE.fullmatch(expected)
        factor, symbol = (int(found[1]), found[2]) if found else (1, expected)
        if not _SYMBOL.fullmatch(symbol):
            continue  # an expression of others: the runtime itself looks at it
        if size % factor or values.setdefault(symbol, size // factor) != size // factor:
            return False
    return True


def _value(size: int | str, values: Mapping[str, int]) -> int | None:
    if isinstance(size, int):
        return size
    found = _MULTIPLE.fullmatch(size)
    factor, symbol = (int(found[1]), found[2]) if found else (1, size)
    return factor * values[symbol] if symbol in values else None
