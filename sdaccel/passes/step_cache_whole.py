"""A denoiser that is left out as a whole at skipped steps: its output follows from earlier ones.

What it returned at the last full steps is extrapolated to the step, so a skipped step costs a sum
of two or three tensors of the output's size: of order 1 that makes a two-step multistep solver
(Adams-Bashforth) of a sampler of first order. It stands outside of all that runs a denoiser, so
nothing compiled or recorded is called either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from .step_cache_state import Call, FeatureCache

_OUTPUT = "output"


class LeftOutWhole:
    """Stands where a denoiser's `forward` is looked up; `stock` is what runs at a full step."""

    def __init__(self, host: torch.nn.Module, cache: FeatureCache) -> None:
        functools.update_wrapper(self, host.forward, updated=())
        self.stock: Callable[..., Any] = host.forward
        self._cache = cache

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        call = None if torch.compiler.is_compiling() else self._cache.current
        if call is None or not call.whole:
            return self.stock(*args, **kwargs)
        if call.shallow and _OUTPUT in call.stream.outlines:
            return _forecast(call)
        output = self.stock(*args, **kwargs)
        reason = _keep(call, output)
        if reason is not None:
            self._cache.give_up(reason)
        return output


def _keep(call: Call, output: Any) -> str | None:
    """Keep copies of an output's tensors, which a pipeline may write to; or say why not."""
    import torch
    from torch.utils import _pytree

    leaves, structure = _pytree.tree_flatten(output)
    if not all(each is None or isinstance(each, torch.Tensor) for each in leaves):
        return "it returns something else than tensors"
    for place, leaf in enumerate(leaves):
        if leaf is not None:
            call.keep((_OUTPUT, place), leaf.clone())
    call.stream.outlines[_OUTPUT] = structure, [leaf is not None for leaf in leaves]
    return None


def _forecast(call: Call) -> Any:
    """What the denoiser may return at this step; copies, for the same reason."""
    from torch.utils import _pytree

    structure, present = call.stream.outlines[_OUTPUT]
    leaves = [
        call.predict((_OUTPUT, place)).clone() if there else None
        for place, there in enumerate(present)
    ]
    return _pytree.tree_unflatten(leaves, structure)
