"""A second pipe over the same weights, so that a rung can change one and stock keeps the other."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def twin(pipe: Any) -> Any:
    """A pipe with modules of its own that read the same weights: no memory until one replaces them.

    Whoever writes into a weight in place writes into both; the harness checks at the end that
    stock's output is still what it was.
    """
    import torch

    second = copy.copy(pipe)
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            setattr(second, name, twin_module(part))
        elif part is not None:
            setattr(second, name, copy.deepcopy(part))
    return second


def twin_module(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module whose parameters and buffers are other views of the same memory."""
    import torch

    views: dict[int, Any] = {
        id(parameter): torch.nn.Parameter(parameter.detach(), parameter.requires_grad)
        for parameter in module.parameters()
    }
    views.update((id(buffer), buffer.detach()) for buffer in module.buffers())
    return copy.deepcopy(module, views)
