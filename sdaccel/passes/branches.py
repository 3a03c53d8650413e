"""Which branches of a function an instance takes, as far as its own attributes decide it.

One block of diffusers serves many models: `if self.norm_type == "ada_norm_zero"`. What such a block
does not do is not counted as fused in it.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from types import CodeType
from typing import Any

_DECIDABLE = (
    *(ast.Name, ast.Attribute, ast.Constant, ast.List, ast.Tuple, ast.Load),
    *(ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.Not),
)
Decisions = tuple[bool | None, ...]


class Branches:
    """The conditions of a definition, in their order."""

    def __init__(self, definition: ast.FunctionDef) -> None:
        self._own = definition.args.args[0].arg
        self._tests = [_compiled(each.test, self._own) for each in _conditions(definition)]

    def decisions(self, module: Any) -> Decisions:
        """What each condition is for an instance; None where more than its attributes decides."""
        return tuple(None if each is None else self._of(each, module) for each in self._tests)

    def _of(self, test: CodeType, module: Any) -> bool | None:
        try:
            return bool(eval(test, {"__builtins__": {}, self._own: module}))
        except (AttributeError, TypeError):
            return None


def taken(definition: ast.FunctionDef, decisions: Decisions) -> ast.FunctionDef:
    """A copy of a definition in which decided conditions are replaced by the branch taken."""
    definition = copy.deepcopy(definition)
    _Taken(definition, decisions).generic_visit(definition)
    return definition


class _Taken(ast.NodeTransformer):
    def __init__(self, definition: ast.FunctionDef, decisions: Decisions) -> None:
        conditions = _conditions(definition)
        self._decided = dict(zip(map(id, conditions), decisions, strict=True))

    def visit_If(self, node: ast.If) -> Any:
        decision = self._decided[id(node)]
        self.generic_visit(node)
        if decision is None:
            return node
        return (node.body if decision else node.orelse) or ast.copy_location(ast.Pass(), node)


def _conditions(definition: ast.FunctionDef) -> Sequence[ast.If]:
    return [each for each in ast.walk(definition) if isinstance(each, ast.If)]


def _compiled(test: ast.expr, own: str) -> CodeType | None:
    nodes = list(ast.walk(test))
    known = all(isinstance(each, _DECIDABLE) for each in nodes)
    if not known or any(isinstance(each, ast.Name) and each.id != own for each in nodes):
        return None
    return compile(ast.Expression(test), "<condition>", "eval")
