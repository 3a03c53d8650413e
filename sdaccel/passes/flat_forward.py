"""A denoiser's forward as one flat function: the calls of torch that were seen in it, and no more.

The second call of its kind is watched, and at the third one the forward itself runs once more
beside the flat one: only if both agree in every bit does the flat one serve later calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from .graph_inputs import UncapturableError

if TYPE_CHECKING:
    import torch

    from .graph_parts import Left
    from .graphed import Visit


class FlatForward:
    """A forward that was watched; raises `UncapturableError`, or what the forward raises."""

    def __init__(self, stock: Callable[..., Any], visit: Visit) -> None:
        import torch
        from torch.utils import _pytree

        from .flat_tape import Tape

        # one object given twice is two inputs
        tensors = [each.detach() for each in visit.tensors]
        tape = Tape(tensors)
        with tape.watching():
            result, self._lefts = visit.run(stock, tensors)
        leaves, self._structure = _pytree.tree_flatten(result)
        for leaf in leaves:
            if leaf is not None and type(leaf) is not torch.Tensor:
                raise UncapturableError(f"it returns a {type(leaf).__name__}, not tensors alone")
        self._present = [leaf is not None for leaf in leaves]
        outputs = _tensors(leaves, self._lefts)
        self._function = tape.function(outputs)
        self._stock: Callable[..., Any] | None = stock
        self._first: Sequence[torch.Tensor] | None = outputs

    def replay(self, visit: Visit) -> tuple[Any, Mapping[str, int]]:
        """The result of a call with this forward's key; that of the one that was watched first."""
        from torch.utils import _pytree

        outputs, self._first = self._first, None
        if outputs is None and self._stock is not None:
            outputs = self._proven(self._stock, visit)
        elif outputs is None:
            with _without_autograd():
                outputs = self._function(*visit.tensors)
        others = iter(outputs)
        leaves = [next(others) if present else None for present in self._present]
        for part, left in zip(visit.parts, self._lefts, strict=True):
            part.leave(left, [next(others) for _ in left.tensors])
        return _pytree.tree_unflatten(leaves, self._structure), {}

    def _proven(self, stock: Callable[..., Any], visit: Visit) -> Sequence[torch.Tensor]:
        """The outputs, compared with those of the forward itself.

        That one runs afterwards, or it might leave its values where a missed operation belongs.
        """
        import torch
        from torch.utils import _pytree

        from .flat_tape import Unfilled

        with _without_autograd(), Unfilled():
            found: Sequence[torch.Tensor] = self._function(*visit.tensors)
        result, lefts = visit.run(stock, visit.tensors)
        wanted = _tensors(_pytree.tree_leaves(result), lefts)
        if len(wanted) != len(found) or not all(map(torch.equal, found, wanted)):
            raise UncapturableError("written out flat it computes something else")
        self._stock = None
        return found

    def forget_inputs(self) -> None:
        """It holds on to none."""


def _without_autograd() -> AbstractContextManager[Any]:
    """Spares each operation the way through autograd, where no gradients are asked for anyway.

    Unlike inference mode it leaves ordinary tensors. SDXL's UNet takes 15% less of the host so.
    """
    import torch

    guard = getattr(torch._C, "_AutoDispatchBelowADInplaceOrView", nullcontext)
    found: AbstractContextManager[Any] = guard()
    return found


def _tensors(leaves: Sequence[Any], lefts: Sequence[Left]) -> list[torch.Tensor]:
    """The tensors among a result's leaves, then those that other passes are left."""
    outputs = [each for each in leaves if each is not None]
    return outputs + [each for left in lefts for each in left.tensors]
