"""How a pipeline guides, read from the source of its `__call__`.

Linear guidance is written there as `uncond + scale * (cond - uncond)`. The two come from one call
of the denoiser, whose result is cut in two, or from two calls, one after the other.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CONTROLNETS = "diffusers.models.controlnets."
"""Where those are defined that are denoisers, but put out no prediction."""
_OTHERS = re.compile(r"do_(?!classifier_free_)\w*guidance")
"""How pipelines call guidance of another kind, such as by perturbed attention."""


@dataclass(frozen=True)
class Guidance:
    """One call of the denoiser with both branches, the unconditional one first; or two calls.

    With two the conditional one comes first.
    """

    batched: bool


@functools.cache
def guidance_of(pipeline_class: Any) -> Guidance | None:
    """How a pipeline guides; None where it is not linear alone, or the order is another one."""
    if any(_OTHERS.fullmatch(name) for name in dir(pipeline_class)):
        return None
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(pipeline_class.__call__)))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return None
    kinds = {_kind(tree, *names) for names in _linear(tree)}
    return kinds.pop() if len(kinds) == 1 else None


def _linear(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The names of the unconditional and the conditional branch in each linear guidance."""
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(
                left=ast.Name(id=base),
                op=ast.Add(),
                right=ast.BinOp(
                    op=ast.Mult(),
                    right=ast.BinOp(
                        left=ast.Name(id=conditional), op=ast.Sub(), right=ast.Name(id=other)
                    ),
                ),
            ) if base == other:
                yield base, conditional


def _kind(tree: ast.AST, unconditional: str, conditional: str) -> Guidance | None:
    """Where the two branches come from."""
    called: dict[str, int] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(
                targets=[ast.Tuple(elts=[ast.Name(id=first), ast.Name(id=second)])],
                value=ast.Call(func=ast.Attribute(attr="chunk"), args=[ast.Constant(value=2)]),
            ) if {first, second} == {unconditional, conditional}:
                return Guidance(batched=True) if first == unconditional else None
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call() | ast.Subscript(value=ast.Call()),
            ) if name in (unconditional, conditional):
                called.setdefault(name, node.lineno)
    if len(called) == 2 and called[conditional] < called[unconditional]:
        return Guidance(batched=False)
    return None
