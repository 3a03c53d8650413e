"""What other passes do within a denoiser's forward, so that a recorded one goes without Python.

A pass that keeps something from forward to forward reads tensors that are no arguments, and leaves
some that are no results. For each forward it is asked for its `Part` in it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class UnreadyError(Exception):
    """This forward is no model for later ones: something is looked at or kept for the first time.

    It runs as it is, and the next one is asked anew.
    """


@dataclass
class Left:
    """What a recorded forward leaves: tensors that each replay writes, and what stays as it is."""

    tensors: list[torch.Tensor] = field(default_factory=list)
    notes: Any = None


class Part(Protocol):
    """What a pass does in one forward.

    `tensors` are what it reads; forwards with equal keys differ in these tensors' values alone.
    """

    @property
    def key(self) -> Hashable: ...
    @property
    def tensors(self) -> Sequence[torch.Tensor]: ...

    def recording(self, tensors: Sequence[torch.Tensor]) -> AbstractContextManager[Left]:
        """Inside, the pass reads these tensors in the place of its own, and keeps nothing."""

    def leave(self, left: Left, tensors: Sequence[torch.Tensor]) -> None:
        """A recorded forward was replayed: keep these, in the place of those in `left`."""


Source = Callable[[], "Part | None"]
"""Gives a pass's part in the forward that begins, None where it has none; or `UnreadyError`."""
