"""A module that is given a subclass of its own class, whose `forward` calls an op of `kernels`.

The subclass has the class's own name. With gradients on, while a compiler traces, and for dtypes
that the ops don't know, the stock `forward` runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..patch import same_name_subclass

if TYPE_CHECKING:
    import torch

Forward = Callable[..., Any]
Rule = Callable[[Any], Iterator["Swap"]]
"""Of a module, what can be fused in it."""
RAN = "_sdaccel_ran"
"""Under this name a swapped module finds the counter of its pass."""


@dataclass(frozen=True)
class Swap:
    """A module or processor, the class it is to have, and what that fuses, for the report.

    `saved` counts the passes over memory (a tensor read or written) that each call is spared.
    `covers` are modules that need no change of their own after this one.
    """

    owner: torch.nn.Module | Any
    subclass: type
    counts: Mapping[str, int]
    saved: int
    covers: tuple[torch.nn.Module, ...] = ()


def swap(module: Any, fuse: Callable[[Forward], Forward], label: str, saved: int) -> Swap:
    """A module whose `forward` becomes what `fuse` makes of it."""
    base: Any = type(module)
    return Swap(module, _subclass(base, fuse), {label: 1}, saved)


@functools.cache
def _subclass(base: Any, fuse: Callable[[Forward], Forward]) -> type:
    """One subclass for each class and rule, so that compiled code finds the same class again."""
    return same_name_subclass(base, {"forward": guarded(base.forward, fuse(base.forward))})


def guarded(stock: Forward, fused: Forward) -> Forward:
    """`fused` for as long as the instance is swapped.

    A hook that came in between keeps this function beyond the return of the instance's class.
    """

    @functools.wraps(stock)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (fused if RAN in self.__dict__ else stock)(self, *args, **kwargs)

    return forward


def is_hooked(module: Any) -> bool:
    """Whether somebody has put a `forward` of his own into an instance, beyond its class's."""
    return "forward" in vars(module)


def name_of(kind: type) -> str:
    """A class's name with its module's; a subclass made here has its base's."""
    return f"{kind.__module__}.{kind.__qualname__}"


def plainly(hidden_states: Any) -> bool:
    """Whether an op can take this: a tensor of 16 or 32 bit, no gradient asked for, eager."""
    import torch

    from ..kernels.arguments import FLOATS

    return (
        isinstance(hidden_states, torch.Tensor)
        and hidden_states.dtype in FLOATS
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def by_torch(hidden_states: torch.Tensor) -> bool:
    """Whether plain torch computes the ops: on a CPU, but for Triton's interpreter."""
    from ..kernels.language import interpreted

    return hidden_states.device.type == "cpu" and not interpreted()


def in_cache(hidden_states: Any) -> bool:
    """Whether plain torch computes, of what a CPU's caches hold as a whole: there stock is as fast.

    16-bit values count four times, since stock raises them to fp32. Norm and rotation of Qwen-Image
    (1024 tokens, 12 heads of 128, fp32) take stock 0.6 ms and pieces 1.1, at 4096 tokens 23 and 4.4
    (2 cores of an AMD EPYC, Zen 5).
    """
    most = 1 << (21 if hidden_states.dtype.itemsize == 4 else 19)
    return by_torch(hidden_states) and hidden_states.shape.numel() <= most
