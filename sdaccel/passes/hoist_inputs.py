"""The inputs of a denoiser's forward, and whether they are still those of an earlier one.

A tensor is known again by its memory and by the count of its writes in place, never by its values:
that costs no look at the device. What was written through `.data` isn't counted by torch, and is
not seen; at the next generation everything is computed anew anyway.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import TYPE_CHECKING, Any

from .pending import version_of

if TYPE_CHECKING:
    import torch

_TIMESTEPS = ("timestep", "timesteps", "t")
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True)
class Sighting:
    """A tensor as it was when it was seen; holding it keeps its memory from being given away."""

    tensor: torch.Tensor
    version: int | None

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Sighting:
        """The tensor as it is now."""
        return cls(tensor, version_of(tensor))

    def is_still(self, other: torch.Tensor) -> bool:
        """Whether `other` is this tensor or a view of all of it, not written to since."""
        mine = self.tensor
        if self.version is None or version_of(other) != self.version:
            return False
        return other is mine or (
            other.data_ptr() == mine.data_ptr()
            and other.shape == mine.shape
            and other.stride() == mine.stride()
            and other.dtype == mine.dtype
            and other.device == mine.device
            and other.untyped_storage()._cdata == mine.untyped_storage()._cdata
        )


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward: its tensors in order, each with a name, and all else as a key.

    Two forwards with equal keys differ in their tensors' values alone. `time` is the place of the
    timestep among the tensors, None where it is no tensor; `sample` are the places of the latents.
    """

    tensors: tuple[torch.Tensor, ...]
    names: tuple[str, ...]
    key: Any
    time: int | None
    sample: frozenset[int]

    @classmethod
    def of(cls, parameters: Sequence[str], args: Any, kwargs: Mapping[str, Any]) -> Inputs:
        """Read a call; `parameters` are the names of the forward's arguments in their order."""
        import torch
        from torch.utils import _pytree

        named = {**dict(zip(parameters, args, strict=False)), **kwargs} if args else kwargs
        tensors: list[torch.Tensor] = []
        names: list[str] = []
        key: list[Any] = [torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")]
        for name, value in named.items():
            leaves: list[Any] = [value]
            structure = None
            if type(value) not in (torch.Tensor, *_PLAIN):
                leaves, structure = _pytree.tree_flatten(value)
            key.append((name, structure))
            for leaf in leaves:
                key.append(_described(leaf))
                if isinstance(leaf, torch.Tensor):
                    tensors.append(leaf)
                    names.append(name)
        latents = parameters[0]
        times = [place for place, name in enumerate(names) if name in _TIMESTEPS]
        return cls(
            tuple(tensors),
            tuple(names),
            tuple(key),
            times[0] if len(times) == 1 else None,
            frozenset(place for place, name in enumerate(names) if name == latents),
        )

    def changed(self, before: Sequence[Sighting | None]) -> frozenset[int]:
        """The places of tensors that are not those seen `before`; None there counts as the same."""
        pairs = zip(before, self.tensors, strict=True)
        return frozenset(
            place
            for place, (seen, tensor) in enumerate(pairs)
            if seen is not None and not seen.is_still(tensor)
        )

    def sightings(self, places: frozenset[int]) -> list[Sighting | None]:
        """The tensors at these places as they are now, None for the others."""
        return [
            Sighting.of(each) if place in places else None
            for place, each in enumerate(self.tensors)
        ]

    def told(self, places: frozenset[int]) -> str:
        """The names of the arguments at these places."""
        return ", ".join(dict.fromkeys(self.names[place] for place in sorted(places)))


class _Itself:
    """Equal to what holds the same object, which lives as long as this: no other has its `id`."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def parameters_of(module: torch.nn.Module) -> tuple[str, ...]:
    """The names of a forward's arguments, in their order, whatever hooks have wrapped it."""
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


def _described(leaf: Any) -> Any:
    """What a leaf of the arguments is, but for a tensor's values."""
    import torch

    if isinstance(leaf, torch.Tensor):
        return (tuple(leaf.shape), leaf.dtype, leaf.device)
    if isinstance(leaf, (*_PLAIN, Number)):
        return (type(leaf), leaf)
    return _Itself(leaf)
