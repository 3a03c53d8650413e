"""`hoist` in recorded forwards: what its tables and kept outputs answer is an input like others.

A table's row lies somewhere else at every step, and kept outputs are made anew in each generation.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .graph_parts import Left, UnreadyError

if TYPE_CHECKING:
    import torch

    from .hoist_answers import Cast
    from .hoisting import Hoisting


class HoistPart:
    """What answers in the forward that is on."""

    def __init__(self, cast: Cast) -> None:
        import torch
        from torch.utils import _pytree

        self._cast = cast
        self._numbers = tuple(sorted(cast.row or ()))
        self._constants = cast.constants()
        self._leaves, self._structure = _pytree.tree_flatten(list(self._constants.values()))
        self._places = [
            place for place, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor)
        ]
        tables = None if cast.row is None else self._numbers
        # the plan compares by identity, and the key keeps it from going
        self.key: Hashable = ("hoist", cast.plan, tables, tuple(self._constants))
        rows = [(cast.row or {})[number] for number in self._numbers]
        self.tensors: list[torch.Tensor] = [*rows, *(self._leaves[p] for p in self._places)]

    @contextmanager
    def recording(self, tensors: Sequence[torch.Tensor]) -> Iterator[Left]:
        """Inside, these tensors are what answers."""
        rows = dict(zip(self._numbers, tensors, strict=False))
        cast = self._cast
        with cast.instead(None if cast.row is None else rows, self._filled(tensors)) as ran:
            left = Left()
            yield left
        left.notes = ran

    def _filled(self, tensors: Sequence[torch.Tensor]) -> dict[Any, Any]:
        """The kept outputs by their calls, with others in place of their tensors."""
        from torch.utils import _pytree

        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors[len(self._numbers) :], strict=True):
            leaves[place] = tensor
        outputs = _pytree.tree_unflatten(leaves, self._structure)
        return dict(zip(self._constants, outputs, strict=True))

    def leave(self, left: Left, tensors: Sequence[torch.Tensor]) -> None:
        """A replay leaves nothing but its counts."""
        self._cast.count(left.notes)


def part_of(hoisting: Hoisting) -> HoistPart | None:
    """The part of a hoisted denoiser in the forward that begins; None where nothing is left out."""
    if hoisting.looking:
        raise UnreadyError("hoist looks at it")
    cast = hoisting.cast
    if cast is not None and not cast.complete:
        raise UnreadyError("hoist keeps what is constant")
    return None if cast is None else HoistPart(cast)
