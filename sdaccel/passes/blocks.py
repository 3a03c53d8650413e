"""Blocks of transformers whose inline arithmetic is done in one pass, their forwards rewritten.

Nothing is retyped: the installed diffusers' own source is read, so a block that is written in
another way in another version stays as it is.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..patch import same_name_subclass
from .arithmetic import PREFIX, Arithmetic
from .arithmetic_calls import (
    TAKES,
    gated,
    handed,
    norm_in_fp32,
    normed,
    plain_sum,
    settled,
    sum_in_fp32,
    sum_with_gated,
)
from .branches import Branches, Decisions, taken
from .feed_forwards import activated_times, times_activated
from .norms import is_known
from .registries import register_as_its_base
from .rewrite import rewritten
from .swap import Swap, guarded
from .waiting import Waiting

CALLS = {
    PREFIX + each.__name__: each
    for each in (
        *(activated_times, gated, handed, norm_in_fp32, normed, plain_sum, settled),
        *(sum_in_fp32, sum_with_gated, times_activated),
    )
}
"""What the calls in a rewritten method are."""
_METHODS = ("forward", "_forward_silu_gating")
"""Where arithmetic stands; the second in Z-Image's feed-forward."""
_WITH_NORM = "residual and its norm"


def block_rule(module: Any) -> Iterator[Swap]:
    """A module of diffusers in whose `forward` there is arithmetic that can be fused."""
    block = _block(module)
    if block is None:
        return
    found = [_found(each, each.branches.decisions(module)) for each in block.methods]
    waiting = [name for each in found for name in each.waiting]
    with_norm = sum(_takes_sums(getattr(module, name, None)) for name in waiting)
    scaled = sum(_has_weights(module, name) for each in found for name in each.scaled)
    own_counts = Counter({_WITH_NORM: with_norm, "norm+modulate": scaled})
    counts = sum((each.inline for each in found), own_counts)
    if counts.total():
        norms = tuple(getattr(module, name) for each in found for name in each.norms)
        saved = sum(each.saved for each in found) + with_norm + 2 * scaled
        yield Swap(module, block.subclass, +counts, saved, covers=norms)


def _block(module: Any) -> _Block | None:
    kind: Any = type(module)
    own = kind.__module__.startswith("diffusers.models.") and "forward" in vars(kind)
    return _rewritten(kind) if own else None


def _has_weights(module: Any, name: str) -> bool:
    """Whether a norm has weights; those that have none wait for their modulation by themselves."""
    norm: Any = getattr(module, name, None)
    return is_known(norm) and norm.weight is not None


def _takes_sums(norm: Any) -> bool:
    """Whether it is a norm, or a module whose forward is rewritten so that one waits for a sum."""
    block = None if is_known(norm) else _block(norm)
    return is_known(norm) or (block is not None and bool(getattr(block.subclass, TAKES)))


@dataclass(frozen=True)
class _Found:
    """What is fused in a method, the reads and writes of a tensor that this spares, and norms.

    `norms` are those that the block computes itself, `waiting` those for which sums wait, `scaled`
    those that are scaled at once. `takes` has the places of arguments that may be such sums.
    """

    inline: Counter[str]
    saved: int
    norms: tuple[str, ...]
    waiting: tuple[str, ...]
    scaled: tuple[str, ...]
    takes: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.inline or self.waiting or self.scaled)


@dataclass(frozen=True, eq=False)
class _Method:
    """A method, rewritten, and its definition as the host has written it.

    `takes` has the places of its arguments that may be sums that wait.
    """

    name: str
    fused: Any
    takes: tuple[int, ...]
    definition: ast.FunctionDef
    branches: Branches


@dataclass(frozen=True)
class _Block:
    """The subclass for a class, and those of its methods that were rewritten."""

    subclass: type
    methods: list[_Method]


@functools.cache
def _rewritten(kind: Any) -> _Block | None:
    """Once for all instances of a class; None where nothing is found, or its source isn't."""
    methods = [each for name in _METHODS if (each := _method(kind, name))]
    if not methods:
        return None
    takes = {TAKES: next((each.takes for each in methods if each.name == "forward"), ())}
    subclass = same_name_subclass(kind, {each.name: each.fused for each in methods} | takes)
    register_as_its_base(subclass)
    return _Block(subclass, methods)


def _method(kind: Any, name: str) -> _Method | None:
    stock = vars(kind).get(name)
    if stock is None:
        return None
    originals: list[ast.FunctionDef] = []
    found: list[_Found] = []

    def change(definition: ast.FunctionDef) -> None:
        originals.append(copy.deepcopy(definition))
        found.append(_fused(definition))

    fused = rewritten(stock, change, CALLS)
    if fused is None or not found[0]:
        return None
    return _Method(
        name, guarded(stock, fused), found[0].takes, originals[0], Branches(originals[0])
    )


@functools.cache
def _found(method: _Method, decisions: Decisions) -> _Found:
    """Once for all instances that take the same branches."""
    return _fused(taken(method.definition, decisions))


def _fused(definition: ast.FunctionDef) -> _Found:
    """Put the calls into a definition."""
    arithmetic, waiting = Arithmetic(definition), Waiting(definition)
    norms = tuple(sorted(arithmetic.norms))
    return _Found(
        arithmetic.found,
        arithmetic.saved,
        norms,
        tuple(waiting.norms),
        tuple(waiting.scaled),
        waiting.takes,
    )
