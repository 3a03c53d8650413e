"""What tests of recorded forwards share, be they CUDA graphs or flat ones: layers that no recording
may hold, other kinds of calls, plans to record over, and pictures with and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import caching
import pytest
import torch
from graphing import forwards, inputs

import sdaccel

Draw = Callable[..., Any]

EXACT = {
    "no_ops": True,
    "memory_format": True,
    "attention": {"measure": False},
    "fuse": True,
    "schedulers": True,
}
SKIPPING = {"interval": 3, "forecast": 2, "fewest_steps": 4}
PLANS: dict[str, dict[str, Any]] = {
    "exact": EXACT,
    "16 bit": {"precision": {"dtype": "bfloat16"}},
    "hoist": {"hoist": True},
    "step_cache": {"step_cache": SKIPPING},
    "guidance": {"guidance": {"stop": 0.5, "every": 3, "fewest_steps": 1}},
    "all": {**EXACT, "hoist": True, "step_cache": SKIPPING},
}


class Waits(torch.nn.Module):
    """A layer that looks at a value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


class Writes(torch.nn.Module):
    """A layer that changes what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(0.5)


def replaced_forward(unet: Any) -> None:
    """The middle block computes by a function of the user's."""
    stock = unet.mid_block.forward
    unet.mid_block.forward = lambda *args, **kwargs: stock(*args, **kwargs) * 2


def hooked(unet: Any) -> None:
    """The middle block has a hook of the user's."""
    unet.mid_block.register_forward_hook(lambda _, __, output: output * 2)


OTHER_CALLS = pytest.mark.parametrize(
    ("change", "more"),
    [({"batch": 3}, {}), ({"size": 16}, {}), ({}, {"return_dict": False})],
    ids=["batch", "size", "argument"],
)
NO_LIMITS = pytest.mark.parametrize("limit", [0, -1, 1.5, True, "8"])


def with_another_call_amid(pipe: Any, change: Any, more: Any) -> list[torch.Tensor]:
    """Three calls, three of another kind, and two of the first."""
    found = forwards(pipe, 3)
    with torch.no_grad():
        found += [pipe.unet(*inputs(seed, **change), **more)[0] for seed in range(3)]
    return found + forwards(pipe, 2)


def draw(pipe: Any, **changes: Any) -> Any:
    """A picture in 8 steps."""
    return caching.draw(pipe, **{"num_inference_steps": 8, **changes})


def both(pipe: Any, drawn: Draw, recorder: str, **passes: Any) -> tuple[list[Any], list[Any]]:
    """What is drawn under a plan, without a recorder (`cuda_graph`, `flatten`) and with it."""
    found = []
    for recorded in (False, True):
        sdaccel.accelerate(pipe, "none", **passes, **{recorder: recorded})
        found.append(drawn(pipe))
    return found[0], found[1]


def ran(pipe: Any, recorder: str, name: str) -> int:
    """A count of the report, of all denoisers."""
    counts = sdaccel.report(pipe)[recorder].ran
    return sum(count for key, count in counts.items() if key.endswith(name))


def alike(one: list[Any], other: list[Any]) -> bool:
    """Whether pictures are equal, bit for bit."""
    return all((a == b).all() for a, b in zip(one, other, strict=True))
