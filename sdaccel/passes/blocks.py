"""Blocks of transformers whose inline arithmetic is done in one pass, their forwards rewritten.

Nothing is retyped: the installed diffusers' own source is read, so a block that is written in
another way in another version stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..patch import same_name_subclass
from .arithmetic import PREFIX, Arithmetic
from .arithmetic_calls import gated, norm_in_fp32, sum_in_fp32, sum_with_gated
from .registries import register_as_its_base
from .rewrite import rewritten
from .swap import Swap, guarded

_GATING = ("ada_norm_zero", "ada_norm_single")
"""Norms with which a BasicTransformerBlock gates; in UNets it has others, and doesn't."""


def block_rule(module: Any) -> Iterator[Swap]:
    """A module of diffusers in whose `forward` there is arithmetic that can be fused."""
    kind: Any = type(module)
    own = kind.__module__.startswith("diffusers.models.") and "forward" in vars(kind)
    if own and vars(module).get("norm_type", "ada_norm_zero") in _GATING:
        block = _rewritten(kind)
        if block is not None:
            norms = tuple(getattr(module, name) for name in sorted(block.found.norms))
            yield Swap(module, block.subclass, block.found.found, block.found.saved, covers=norms)


@dataclass(frozen=True)
class _Block:
    """The subclass for a class, and what was put into its forward."""

    subclass: type
    found: Arithmetic


@functools.cache
def _rewritten(kind: Any) -> _Block | None:
    """Once for all instances of a class; None where nothing is found, or its source isn't."""
    found: list[Arithmetic] = []
    calls = {
        PREFIX + each.__name__: each for each in (gated, sum_with_gated, sum_in_fp32, norm_in_fp32)
    }
    forward = rewritten(kind.forward, lambda tree: found.append(Arithmetic(tree)), calls)
    if forward is None or not found[0].found:
        return None
    subclass = same_name_subclass(kind, {"forward": guarded(kind.forward, forward)})
    register_as_its_base(subclass)
    return _Block(subclass, found[0])
