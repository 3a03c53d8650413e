"""Other forwards for some modules, for the length of one forward of the model they are in.

They hang on the instances, and are gone when the model's forward is over: outside of it nobody
meets them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ABSENT = object()


@contextmanager
def standing_in(forwards: Mapping[torch.nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules have these forwards inside of the block; a hook's own comes back after it."""
    before = [(module.__dict__, module.__dict__.get("forward", _ABSENT)) for module in forwards]
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for own, forward in before:
            if forward is _ABSENT:
                own.pop("forward", None)
            else:
                own["forward"] = forward
