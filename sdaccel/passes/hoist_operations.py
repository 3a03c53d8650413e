"""What can be told of one of torch's operations from its schema and its arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree
from torch.utils.flop_counter import flop_registry

_UNINITIALISED = {
    *("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"),
}
_FROM_PYTHON = {"lift_fresh", "lift", "lift_fresh_copy"}
"""What a tensor made of Python's numbers comes through."""


def is_arbitrary(func: Any) -> bool:
    """Whether the result is random, or memory that nobody has written to."""
    return torch.Tag.nondeterministic_seeded in func.tags or _name(func) in _UNINITIALISED


def is_from_python(func: Any) -> bool:
    """Whether a tensor made of Python's numbers comes in by it."""
    return _name(func) in _FROM_PYTHON


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def memory_of(tensor: torch.Tensor) -> int:
    """What identifies a tensor's memory."""
    return int(tensor.untyped_storage()._cdata)


def _name(func: Any) -> str:
    return str(func.overloadpacket.__name__)


def written_by(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The tensors that an operation writes to in place."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = kwargs.get(argument.name, args[place] if place < len(args) else None)
        found += [each for each in _pytree.tree_leaves(given) if is_tensor(each)]
    return found


def shape_tells(func: Any, args: Any) -> bool:
    """Whether the shape of the result depends on values."""
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    if _name(func) != "index":
        return True
    return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])


def flops_of(func: Any, args: Any, kwargs: Any, output: Any) -> int:
    """What torch counts for it: products, convolutions and attention."""
    count = flop_registry.get(func.overloadpacket)
    return int(count(*args, **kwargs, out_val=output)) if count is not None else 0
