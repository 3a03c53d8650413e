"""Whether dictionaries of modules still hold the very objects that they held: cheap to ask.

It asks for identities alone, one after the other as they lie in memory, and nothing by its name.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Contents:
    """What some dictionaries hold; `held` are all their values."""

    def __init__(self, dictionaries: Sequence[Mapping[str, Any]]) -> None:
        self._counted = dictionaries
        self._counts = list(map(len, dictionaries))
        self._values = [each.values() for each in dictionaries if each]
        self.held = list(chain.from_iterable(self._values))

    def are_same(self) -> bool:
        """Whether each holds what it did."""
        return self._counts == list(map(len, self._counted)) and all(
            map(operator.is_, chain.from_iterable(self._values), self.held)
        )


class Hooks:
    """The hooks on some modules' forwards.

    Hooks that somebody registers are numbered by torch through the whole process: as long as the
    next number is the same there are none to look for.
    """

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        self._hooks = [each.__dict__[name] for each in modules for name in _HOOKS]
        self._counts = list(map(len, self._hooks))
        self._hooked = Contents([each for each in self._hooks if each])
        self._next = _next_hook()

    def are_same(self) -> bool:
        """Whether none was added, taken away or put in another's place."""
        if not self._hooked.are_same():
            return False
        if self._next == _next_hook():
            return True
        self._next = _next_hook()
        return self._counts == list(map(len, self._hooks))


def _next_hook() -> int:
    from torch.utils.hooks import RemovableHandle

    return RemovableHandle.next_id
