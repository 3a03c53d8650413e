"""Along which of its dimensions a tensor has one value again and again, by how it was computed.

A pipeline hands its timestep over once for each sample of a batch. What a model computes from that
alone is the same for all samples, and a table needs it once. No value is looked at: a tensor that
repeats itself along a dimension is followed through the operations as one with a stride of 0 there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree

from .hoist_operations import memory_of
from .hoist_tape import Ref, Step

_PRODUCTS = {torch.ops.aten.mm.default: 0, torch.ops.aten.addmm.default: 1}
"""Where products have their rows; what stands before them is added to each row."""
_COPIES = {torch.ops.aten._to_copy.default}
_VIEWS = {torch.ops.aten._unsafe_view.default}


def repeats_of(
    steps: Iterable[Step], numbered: Sequence[torch.Tensor], time: int
) -> dict[int, tuple[int, ...]]:
    """The dimensions along which tensors repeat themselves, by number.

    `time` is the number of the timestep, which has one value in all its places. Where one of them
    is written to in place, nothing is known.
    """
    steps = [each for each in steps if each.func is not None]
    every = range(numbered[time].dim())
    twins = {time: _twin(numbered[time], every)}
    for step in steps:
        if not twins.keys().isdisjoint(step.uses):
            twins.update(_results(step, twins, numbered))
    written = {memory_of(numbered[number]) for step in steps for number in step.writes}
    if not written.isdisjoint(memory_of(numbered[number]) for number in twins):
        return {}
    return {number: _still(twin) for number, twin in twins.items()}


def _twin(tensor: torch.Tensor, repeats: Iterable[int] = ()) -> torch.Tensor:
    """A tensor of the same form without memory, that has a stride of 0 where it repeats itself."""
    sizes = list(tensor.shape)
    for dimension in repeats:
        sizes[dimension] = 1
    return torch.empty(sizes, dtype=tensor.dtype, device="meta").expand(tensor.shape)


def _still(twin: torch.Tensor) -> tuple[int, ...]:
    """The dimensions in which a twin stands still."""
    sizes = zip(twin.shape, twin.stride(), strict=True)
    return tuple(place for place, (size, stride) in enumerate(sizes) if size > 1 and not stride)


def _results(
    step: Step, twins: Mapping[int, torch.Tensor], numbered: Sequence[torch.Tensor]
) -> dict[int, torch.Tensor]:
    """The twins of what a step puts out; none of an operation that could do anything."""

    def twin_of(leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        return twins.get(leaf.number, _twin(numbered[leaf.number]))

    arguments = _pytree.tree_map(twin_of, step.args)
    if step.func in _VIEWS or any(each.alias_info for each in step.func._schema.returns):
        return _of_view(step, arguments, _pytree.tree_map(twin_of, step.kwargs))
    numbers = list(step.numbers())
    if len(numbers) != 1:
        return {}
    result = numbered[numbers[0]]
    given = [twins.get(number, _twin(numbered[number])) for number in step.uses]
    return {numbers[0]: _twin(result, _dimensions(step.func, arguments, given, result))}


def _of_view(step: Step, args: Any, kwargs: Any) -> dict[int, torch.Tensor]:
    """A view of a twin; none where only a tensor without repetitions can be seen like that."""
    try:
        output = step.func(*args, **kwargs)
    except RuntimeError:
        return {}
    results = _pytree.tree_leaves(step.results)
    pairs = zip(results, _pytree.tree_leaves(output), strict=True)
    return {ref.number: twin for ref, twin in pairs if isinstance(ref, Ref)}


def _dimensions(
    func: Any, arguments: Any, given: Sequence[torch.Tensor], result: torch.Tensor
) -> Sequence[int]:
    """Along which dimensions the one result of an operation repeats itself."""
    if torch.Tag.pointwise in func.tags or func in _COPIES:
        return _in_all(given, result)
    if func is torch.ops.aten.cat.default:
        along = (arguments[1] if len(arguments) > 1 else 0) % result.dim()
        alike = all(each.dim() == result.dim() for each in given)
        others = [set(_still(each)) for each in given]
        return sorted(set.intersection(*others) - {along}) if alike else ()
    rows = _PRODUCTS.get(func)
    if rows is None or 0 not in _still(arguments[rows]):
        return ()
    return [each for each in _in_all(arguments[:rows], result) if each == 0] if rows else (0,)


def _in_all(given: Iterable[torch.Tensor], result: torch.Tensor) -> Sequence[int]:
    """The dimensions of a result in which all stand still that are broadcast to it."""
    found = [set(_still(each.expand(result.shape))) for each in given]
    return sorted(set.intersection(*found)) if found else ()
