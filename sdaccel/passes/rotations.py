"""Attention processors whose norms of query and key wait for the rotation that follows.

The processor's `__call__` is read from its source; its calls of `apply_rotary_emb`, wherever that
name comes from (a global, an import inside, a function inside), become calls of `rotary_calls`,
which are given the stock function and know what it computes by its source's fingerprint. The norms
become such that wait. Only processors of `rotating_processors` are changed: norm and rotation work
in place on what they project.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..patch import same_name_subclass
from . import rotary_calls
from .arithmetic import PREFIX, cast_to, raised
from .norms import is_row_norm, stock_passes
from .registries import register_as_its_base
from .rewrite import fingerprint, rewritten, syntax_of
from .rotating_processors import NORMS, OF_TEXT, PROCESSORS, Processor
from .swap import RAN, Forward, Swap, name_of, swap
from .unrotated import HeadNorm, Unrotated

_FUSED = "q/k norm+rotation"
_NORM = f"{PREFIX}norm_in_fp32"


@dataclass(frozen=True)
class Rotation:
    """What computes it here, and how often stock reads or writes a tensor for it."""

    call: Forward
    passes: int


ROTATIONS = {
    "5877aebc65b2": Rotation(rotary_calls.real, 16),
    "4864fc09fa91": Rotation(rotary_calls.qwen, 6),
    "f3d309d91439": Rotation(rotary_calls.complex_numbers, 6),
    "4b0600907925": Rotation(rotary_calls.strided, 8),
    "0b0137f7382f": Rotation(rotary_calls.complex_numbers, 6),
    "ff16059143b6": Rotation(rotary_calls.chunked, 8),
    "37e25da236a5": Rotation(rotary_calls.flat, 16),
    "839230961f0c": Rotation(rotary_calls.flat_halves, 11),
    "9d8c0d0e840c": Rotation(rotary_calls.first_channels, 12),
    "78f7cf838180": Rotation(rotary_calls.by_heads, 10),
    "b3c081af9216": Rotation(rotary_calls.both_by_matrices, 10),
    "d6be5c11e186": Rotation(rotary_calls.matrices, 10),
    "1a6d6e6446ec": Rotation(rotary_calls.matrices_in_bf16, 10),
    "a285b1181f56": Rotation(rotary_calls.angles, 9),
    "c4c82d3ff84f": Rotation(rotary_calls.both, 16),
    "5d47f4800886": Rotation(rotary_calls.both, 16),
}
"""What a rotation's source computes, by its fingerprint."""


def never_rotating(modules: Iterable[Any]) -> set[int]:
    """The `id` of each attention among the modules to which its block gives no rotation."""
    return {
        id(getattr(block, name))
        for block in modules
        for name in OF_TEXT.get(name_of(type(block)), ())
    }


def rotation_rule(attention: Any, left_out: Container[int] = ()) -> Iterator[Swap]:
    """An attention module's processor and norms, where the table knows the processor."""
    if id(attention) in left_out:
        return
    processor = getattr(attention, "processor", None)
    kind: Any = type(processor)
    entry = PROCESSORS.get(name_of(kind))
    found = None if entry is None else _rewritten(kind, entry)
    if entry is None or found is None:
        return
    subclass, rotation_passes = found
    named: list[Any] = [getattr(attention, name, None) for name in entry.norms_of(attention)]
    norms = [each for each in named if _is_known(each, entry.in_fp32)]
    if not norms:
        return
    saved = [stock_passes(each) + rotation_passes - 2 for each in norms]
    if entry.in_fp32:
        counts = {"rotation of q/k": 1, _FUSED: len(norms)}
        yield Swap(processor, subclass, counts, sum(saved) + 4 * len(norms), tuple(norms))
        return
    yield Swap(processor, subclass, {"rotation of q/k": 1}, 0)
    for norm, spared in zip(norms, saved, strict=True):
        yield swap(norm, _waits(entry.stays_flat), _FUSED, spared)


def unknown_rotations(model: Any) -> list[str]:
    """Processors that rotate what norms precede, and stand in no table, by name."""
    found = set()
    for module in model.modules():
        kind = type(vars(module).get("processor"))
        normed = any(module._modules.get(name) is not None for name in NORMS)
        if normed and name_of(kind) not in PROCESSORS and _mentions_rotation(kind):
            found.add(kind.__name__)
    return sorted(found)


def _mentions_rotation(kind: Any) -> bool:
    call = vars(kind).get("__call__")
    names = _names(call.__code__) if inspect.isfunction(call) else set()
    return any("rotary" in name or "rope" in name for name in names)


def _names(code: Any) -> set[str]:
    """What a processor's code calls, and what it defines."""
    inside = [each.co_name for each in code.co_consts if hasattr(each, "co_name")]
    return {*code.co_names, *code.co_varnames, *inside}


def _is_known(norm: Any, in_fp32: bool) -> bool:
    """Whether it is a norm as the op has it, and for `norm_in_fp32` in the dtype that it knows."""
    import torch

    known = type(norm).__name__ in ("RMSNorm", "LayerNorm", "MochiRMSNorm")
    if in_fp32:
        return known and norm.weight is not None and norm.weight.dtype == torch.bfloat16
    return known and norm.eps is not None


@functools.cache
def _waits(stays_flat: bool) -> Callable[[Forward], Forward]:
    def fuse(stock: Forward) -> Forward:
        def forward(self: Any, hidden_states: Any) -> Any:
            same = self.weight is None or self.weight.dtype == hidden_states.dtype
            if not same or not is_row_norm(self, hidden_states):
                return stock(self, hidden_states)
            norm = HeadNorm.of(self, self.eps, stays_flat)
            return Unrotated(hidden_states, norm, self.__dict__[RAN])

        return forward

    return fuse


@functools.cache
def _rewritten(kind: Any, entry: Processor) -> tuple[type, int] | None:
    """The processor's subclass, and the passes that each of its rotations takes at least.

    None where its source is not the one that was read.
    """
    known = {name: _rotation_of(kind.__call__, name) for name in entry.rotations}
    rotations = {PREFIX + name: each for name, each in known.items() if each is not None}
    if len(rotations) < len(known):
        return None
    calls = {own: each.call for own, each in rotations.items()}
    norms = _Norms()

    def change(definition: ast.FunctionDef) -> None:
        for node in ast.walk(definition):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                own = PREFIX + node.func.id
                if own in rotations:
                    node.args.insert(0, node.func)
                    node.func = ast.copy_location(ast.Name(own, ast.Load()), node.func)
        if entry.in_fp32:
            norms.visit(definition)

    call = rewritten(kind.__call__, change, {**calls, _NORM: rotary_calls.norm_in_fp32})
    if call is None:
        return None
    subclass = same_name_subclass(kind, {"__call__": call})
    register_as_its_base(subclass)
    return subclass, min(each.passes for each in rotations.values())


class _Norms(ast.NodeTransformer):
    """Puts calls in the place of `norm(x.float()).type_as(x)`, in a processor's `__call__`."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Norms by way of fp32."""
        x, norm = cast_to(node), getattr(node.func, "value", None)
        if x is None or not isinstance(norm, ast.Call) or len(norm.args) != 1:
            return self.generic_visit(node)
        given = raised(norm.args[0])
        if not isinstance(given, ast.Name) or given.id != x.id:
            return self.generic_visit(node)
        arguments = [ast.Name("self", ast.Load()), norm.func, given]
        return ast.copy_location(ast.Call(ast.Name(_NORM, ast.Load()), arguments, []), node)


def _rotation_of(call: Forward, name: str) -> Rotation | None:
    """What takes the place of the rotation that a processor's `__call__` uses under this name."""
    definition = syntax_of(call)
    if definition is None:
        return None
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ROTATIONS.get(fingerprint(node))
        if isinstance(node, ast.ImportFrom) and name in [each.name for each in node.names]:
            from diffusers.models import embeddings

            return _known(getattr(embeddings, name, None))
    return _known(call.__globals__.get(name))


def _known(function: Any) -> Rotation | None:
    definition = syntax_of(function) if callable(function) else None
    return None if definition is None else ROTATIONS.get(fingerprint(definition))
