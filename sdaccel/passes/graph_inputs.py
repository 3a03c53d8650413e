"""The tensors that a recorded forward reads, in memory that stays, and the key of a forward."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .hoist_inputs import Sighting

if TYPE_CHECKING:
    import torch

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class UncapturableError(Exception):
    """Why a forward can't be recorded, in half a sentence."""


@dataclass(frozen=True)
class Arguments:
    """A call's arguments: its tensors in order, and all else as a key.

    Calls with equal keys differ in their tensors' values alone.
    """

    tensors: tuple[torch.Tensor, ...]
    key: Hashable
    _leaves: tuple[Any, ...]
    _structure: Any

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any], device: Any) -> Arguments:
        """Read a call of a model on `device`; raises `UncapturableError`."""
        import torch
        from torch.utils import _pytree

        leaves, structure = _pytree.tree_flatten((args, dict(kwargs)))
        key = tuple(_described(each, device) for each in leaves)
        tensors = tuple(each for each in leaves if isinstance(each, torch.Tensor))
        return cls(tensors, (structure, key), tuple(leaves), structure)

    def filled(self, tensors: Sequence[torch.Tensor]) -> tuple[Any, Any]:
        """The positional and the keyword arguments, with others in place of the tensors."""
        import torch
        from torch.utils import _pytree

        others = iter(tensors)
        filled = [next(others) if isinstance(e, torch.Tensor) else e for e in self._leaves]
        args, kwargs = _pytree.tree_unflatten(filled, self._structure)
        return args, kwargs


def _described(leaf: Any, device: Any) -> Hashable:
    """What a leaf of the arguments is, but for a tensor's values."""
    import torch

    if isinstance(leaf, torch.Tensor):
        return _outline(leaf, device)
    if isinstance(leaf, (*_PLAIN, torch.dtype, torch.device)):
        return type(leaf), leaf
    raise UncapturableError(f"an argument is of {_kind(leaf)}, which it may read anything from")


def _outline(tensor: torch.Tensor, device: Any) -> Hashable:
    import torch

    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        raise UncapturableError(f"an argument is of {_kind(tensor)}")
    if tensor.device != device:
        raise UncapturableError(f"an argument is on {tensor.device}, the model on {device}")
    shape, stride = tuple(tensor.shape), tensor.stride()
    if _overlaps(shape, stride):
        raise UncapturableError("an argument's values overlap in memory")
    return shape, stride, tensor.dtype


def _kind(value: Any) -> str:
    return f"the class {type(value).__name__}"


def _overlaps(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether two values may lie in the same memory, those of expanded dimensions apart."""
    extent = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride > 0:
            if stride < extent:
                return True
            extent += (size - 1) * stride
    return False


class Buffer:
    """Memory that stays, for tensors like one, and what was copied into it last.

    Expanded dimensions take no memory, as they take none in the original.
    """

    def __init__(self, like: torch.Tensor) -> None:
        import torch

        self._strides = like.stride()
        pairs = zip(like.shape, self._strides, strict=True)
        self._sizes = [min(size, 1) if stride == 0 else size for size, stride in pairs]
        with torch.inference_mode(False):  # a tensor made in it counts no writes
            self._memory = torch.empty_strided(
                self._sizes, self._strides, dtype=like.dtype, device=like.device
            )
            self.tensor = self._memory.expand(like.shape)
        self._seen: Sighting | None = None

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether it has this tensor's values already, by its memory and its count of writes."""
        return self._seen is not None and self._seen.is_still(tensor)

    def pair(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where to copy to, and what from."""
        if self._memory.shape == tensor.shape:
            return self._memory, tensor
        distinct = tensor.as_strided(self._sizes, self._strides, tensor.storage_offset())
        return self._memory, distinct

    def remember(self, tensor: torch.Tensor | None) -> None:
        """Take this tensor for the one whose values it has."""
        self._seen = None if tensor is None else Sighting.of(tensor)


def load(buffers: Sequence[Buffer], tensors: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Copy tensors into buffers, but for those that are there; returns how many of each.

    All of one dtype in one launch.
    """
    import torch

    due = [pair for pair in zip(buffers, tensors, strict=True) if not pair[0].holds(pair[1])]
    groups: dict[Any, tuple[list[Any], list[Any]]] = {}
    for buffer, tensor in due:
        to, source = buffer.pair(tensor)
        targets, sources = groups.setdefault(tensor.dtype, ([], []))
        targets.append(to)
        sources.append(source)
    for targets, sources in groups.values():
        torch._foreach_copy_(targets, sources)
    for buffer, tensor in due:
        buffer.remember(tensor)
    return len(due), len(buffers) - len(due)
