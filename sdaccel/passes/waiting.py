"""Which sums of a block may wait for the norm that follows, read from its source.

    h = h + gate * x
    y = self.norm(h)            both in one pass, and h is what it was
    y = self.norm(h + gate * x)                             the same, and nobody needs the sum
    y, gate = self.norm(h, temb)                            a module that normalises and modulates h

A sum that waits must not leave the function: a hook, a cache or a compiler would see something that
is no tensor. So wherever else its variable is read, for a call, a return, another name, there the
source is changed to ask for the tensor, but for a module whose own source is changed like this.
What waits is then a matter of speed alone: sums whose next use on the way is a norm. Works on what
`arithmetic` has made of the source.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeGuard

from .arithmetic import PREFIX

_KNOWN_BEFORE = {"ndim", "shape", "dtype", "device"}
"""Attributes for which a sum needn't be computed."""
_SUMS = {f"{PREFIX}sum_with_gated", f"{PREFIX}sum_in_fp32"}
_NORM = f"{PREFIX}norm_in_fp32"


class Waiting(ast.NodeTransformer):
    """Lets sums wait, in a method's syntax tree; `norms` names the norm of each.

    `scaled` names the norms that are scaled at once, of such sums or of the method's arguments;
    `takes` has the places of the arguments that may be such sums.
    """

    def __init__(self, definition: ast.FunctionDef) -> None:
        self._own = definition.args.args[0].arg
        left = _changed_otherwise(definition)
        sums = dict(self._sums(definition.body, [], left))
        self.norms, self.scaled = list(sums.values()), list[str]()
        self._waiting = {id(each) for each in sums}
        arguments = self._scaled_arguments(definition) - left
        self.takes = tuple(
            place for place, each in enumerate(definition.args.args[1:]) if each.arg in arguments
        )
        self._names = {_target(each) for each in sums} | arguments
        self._summands: set[int] = set()
        definition.body = [self.visit(each) for each in definition.body]

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Sums that wait."""
        self.generic_visit(node)
        if id(node) in self._waiting:
            if isinstance(node.value, ast.BinOp):
                node.value = self._call("plain_sum", node.value.left, node.value.right)
            _waits(node.value)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Sums with a variable that may wait: it is asked last, for the norm may be in the sum."""
        if isinstance(node.op, ast.Add) and (self._is_kept(node.left) or self._is_kept(node.right)):
            left, right = (self._unless_kept(each) for each in (node.left, node.right))
            return self._call("plain_sum", left, right)
        if isinstance(node.op, ast.Add):
            self._summands.update(map(id, _sides(node)))
        scaled = [isinstance(node.op, ast.Mult) and self._is_norm(each) for each in _sides(node)]
        self.generic_visit(node)
        for each, is_scaled in zip(_sides(node), scaled, strict=True):
            if is_scaled:
                assert isinstance(each, ast.Call)
                each.keywords.append(ast.keyword("scaled", ast.Constant(True)))
                assert isinstance(each.args[1], ast.Attribute)
                self.scaled.append(each.args[1].attr)
        alone = any(scaled) and id(node) not in self._summands
        return self._call("settled", node) if alone else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Norms, and the calls that know of sums that wait."""
        if self._is_norm(node):
            return self._call("normed", node.func, node.args[0])
        norm = self._norm_of(node)
        if norm and len(node.args) == 1 and _is_fused_sum(node.args[0]):
            self.norms.append(norm)
            return self._call("normed", node.func, _waits(self.visit(node.args[0])))
        if norm and not any(isinstance(each, ast.Starred) for each in node.args):
            for place, each in enumerate(node.args):
                if self._is_kept(each):
                    node.args[place] = self._call("handed", node.func, ast.Constant(place), each)
        if isinstance(node.func, ast.Name) and node.func.id.startswith(PREFIX):
            node.args = [self._unless_kept(each) for each in node.args]
            return node
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """What is known of a sum before it is computed."""
        known = node.attr in _KNOWN_BEFORE and self._is_kept(node.value)
        return node if known else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Everything else."""
        return self._call("settled", node) if self._is_kept(node) else node

    def _sums(
        self, body: Sequence[ast.stmt], after: Sequence[Sequence[ast.stmt]], left: set[str]
    ) -> Iterator[tuple[ast.Assign, str]]:
        """Sums whose variable a norm takes next, and the norm; those in loops are left."""
        for index, each in enumerate(body):
            later = [body[index + 1 :], *after]
            if isinstance(each, ast.Assign) and _is_sum(each) and _target(each) not in left:
                norm = self._next_norm(_target(each), later)
                if norm:
                    yield each, norm
            if isinstance(each, ast.If):
                yield from self._sums(each.body, later, left)
                yield from self._sums(each.orelse, later, left)

    def _scaled_arguments(self, definition: ast.FunctionDef) -> set[str]:
        """Arguments of a method whose norm is scaled at once."""
        products = (
            each
            for each in ast.walk(definition)
            if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Mult)
        )
        factors = [side for each in products for side in _sides(each)]
        names = [each.arg for each in definition.args.args[1:]]
        return {name for name in names if any(self._normed_by(each, name) for each in factors)}

    def _next_norm(self, name: str, later: Iterable[Sequence[ast.stmt]]) -> str:
        """The norm that takes a variable next, be it under a condition; "" where something else."""
        uses = (self._use(name, each) for body in later for each in body)
        return next((each for each in uses if each is not None), "")

    def _use(self, name: str, node: ast.stmt) -> str | None:
        """The norm that a statement gives a variable to, "" for other uses, None for none."""
        if isinstance(node, ast.If):
            tested = self._use(name, ast.Expr(node.test))
            if tested is not None:
                return tested
            return next(filter(None, (self._next_norm(name, [each]) for each in _arms(node))), None)
        nodes = list(ast.walk(node))
        norms = (self._normed_by(each, name) or self._handed_to(each, name) for each in nodes)
        known = {id(each.value) for each in nodes if _is_known_before(each)}
        others = (_is(each, name) and id(each) not in known for each in nodes)
        return next(filter(None, norms), "" if any(others) else None)

    def _normed_by(self, node: ast.AST, name: str) -> str | None:
        """The attribute that a variable's norm is."""
        if not isinstance(node, ast.Call) or node.keywords:
            return None
        by_way_of_fp32 = _is(node.func, _NORM)
        norm, taken = (node.args[1], node.args[2:3]) if by_way_of_fp32 else (node.func, node.args)
        own = isinstance(norm, ast.Attribute) and _is(norm.value, self._own)
        if not own or len(taken) != 1 or not _is(taken[0], name):
            return None
        assert isinstance(norm, ast.Attribute)
        return norm.attr if "norm" in norm.attr else None

    def _norm_of(self, node: ast.AST) -> str | None:
        """The attribute that is called, where it is a norm or a module around one."""
        called = node.func if isinstance(node, ast.Call) else None
        if not isinstance(called, ast.Attribute) or not _is(called.value, self._own):
            return None
        return called.attr if "norm" in called.attr else None

    def _handed_to(self, node: ast.AST, name: str) -> str | None:
        """The attribute of a module around a norm that a variable is given to."""
        norm = self._norm_of(node)
        given = isinstance(node, ast.Call) and any(_is(each, name) for each in node.args)
        return norm if given else None

    def _is_norm(self, node: ast.expr) -> bool:
        """Whether it is `self.<norm>(variable)` of a variable that may wait."""
        return any(
            not _is(getattr(node, "func", None), _NORM) and self._normed_by(node, each)
            for each in self._names
        )

    def _is_kept(self, node: ast.expr) -> bool:
        """Whether it reads a variable that may wait."""
        read = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        return read and any(_is(node, each) for each in self._names)

    def _unless_kept(self, node: ast.expr) -> ast.expr:
        changed = node if self._is_kept(node) else self.visit(node)
        assert isinstance(changed, ast.expr)
        return changed

    def _call(self, name: str, *arguments: ast.expr) -> ast.Call:
        own = ast.Name(self._own, ast.Load())
        call = ast.Call(ast.Name(PREFIX + name, ast.Load()), [own, *arguments], [])
        return ast.copy_location(call, arguments[0])


def _is_sum(node: ast.Assign) -> bool:
    """Whether it is `x = a + b`, neither of them a number, or what `arithmetic` made of a sum."""
    if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
        return False
    value = node.value
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return not any(isinstance(each, ast.Constant) for each in _sides(value))
    return _is_fused_sum(value)


def _is_fused_sum(node: ast.expr) -> bool:
    """Whether `arithmetic` has made it of a sum."""
    return isinstance(node, ast.Call) and any(_is(node.func, each) for each in _SUMS)


def _waits(node: ast.expr) -> ast.expr:
    """A call that makes a sum, which is told that it waits."""
    assert isinstance(node, ast.Call)
    node.keywords.append(ast.keyword("waits", ast.Constant(True)))
    return node


def _target(node: ast.Assign) -> str:
    assert isinstance(node.targets[0], ast.Name)
    return node.targets[0].id


def _sides(node: ast.BinOp) -> tuple[ast.expr, ast.expr]:
    return node.left, node.right


def _arms(node: ast.If) -> tuple[Sequence[ast.stmt], Sequence[ast.stmt]]:
    return node.body, node.orelse


def _is(node: ast.AST | None, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_known_before(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and node.attr in _KNOWN_BEFORE


def _changed_otherwise(definition: ast.FunctionDef) -> set[str]:
    """Variables that are changed in place or deleted somewhere, or belong to another scope."""
    names: set[str] = set()
    for each in ast.walk(definition):
        if isinstance(each, ast.AugAssign) and isinstance(each.target, ast.Name):
            names.add(each.target.id)
        elif isinstance(each, ast.Delete):
            names.update(target.id for target in each.targets if isinstance(target, ast.Name))
        elif isinstance(each, (ast.Global, ast.Nonlocal)):
            names.update(each.names)
    return names
