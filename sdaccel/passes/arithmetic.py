"""The inline arithmetic of transformer blocks: where it stands, and what computes it in one pass.

    h + gate * x                                            a gated residual
    x = gate * x, and later h + x                           the same in two statements
    (h.float() + x * gate).type_as(h)                       the same by way of fp32 (Wan)
    (self.norm(h.float()) * scale + shift).type_as(h)       a modulated norm by way of fp32
    F.silu(self.w1(h)) * self.w3(h)                         SwiGLU of two projections
    self.w3(h) * F.gelu(self.w1(h))                         GEGLU of two, in the other order

A round trip by way of fp32 moves 20 to 30 bytes an element where 4 or 6 would do. Each expression
becomes a call with the same meaning: what doesn't fit when it runs (other shapes or dtypes, with
gradients, while compiling) is computed as it was written.
"""

from __future__ import annotations

import ast
from collections import Counter
from typing import TypeGuard

PREFIX = "_sdaccel_"
"""What the names of functions in `arithmetic_calls` are prefixed with in the host's code."""
_GATED = "gated residual"
_FUNCTIONS, _MODULES = {"silu", "gelu"}, {"silu", "act_fn", "activation_fn"}
"""What torch's activations are called, and a block's own; which they are is seen when they run."""


class Arithmetic(ast.NodeTransformer):
    """Puts the calls into a method's syntax tree.

    `found` counts them by label, `saved` the passes over memory that they spare (reads or writes of
    a tensor), `norms` names the norms that the module itself computes now.
    """

    def __init__(self, definition: ast.FunctionDef) -> None:
        self.found: Counter[str] = Counter()
        self.saved = 0
        self.norms: set[str] = set()
        self._self = definition.args.args[0].arg
        self._added = _added_later(definition)
        self._sums = set(self._added.values())
        self.visit(definition)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Round trips, which end in `.type_as(h)`."""
        hidden_states = cast_to(node)
        if hidden_states is not None:
            assert isinstance(node.func, ast.Attribute)
            fused = self._norm(node.func.value, hidden_states) or self._round_trip(
                node.func.value, hidden_states
            )
            if fused is not None:
                return fused
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Sums with a product, and products with an activation."""
        parts, left, right = _sum_with_product(node), *_activated(node, self._self)
        self.generic_visit(node)
        if left is not None:
            self._count("gated activation", 2)
            return self._call("activated_times", left.func, left.args[0], node.right)
        if right is not None:
            self._count("gated activation", 2)
            return self._call("times_activated", node.left, right.func, right.args[0])
        if parts is None:
            return node
        residual, product = parts
        self._count(_GATED, 2)
        return self._call("sum_with_gated", residual, product.left, product.right)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Products that are added later; those of two branches to one sum count once."""
        self.generic_visit(node)
        if id(node) in self._added and isinstance(node.value, ast.BinOp):
            node.value = self._call("gated", node.value.left, node.value.right)
            if self._added[id(node)] in self._sums:
                self._sums.remove(self._added[id(node)])
                self._count(_GATED, 2)
        return node

    def _norm(self, node: ast.expr, hidden_states: ast.Name) -> ast.expr | None:
        modulation: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            product, shift = node.left, node.right
            if not isinstance(product, ast.BinOp) or not isinstance(product.op, ast.Mult):
                return None
            node, modulation = product.left, [product.right, shift]
        if not self._is_norm(node, hidden_states):
            return None
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Attribute)
        self.norms.add(node.func.attr)
        self._count("norm by way of fp32", 8 if modulation else 4)
        return self._call("norm_in_fp32", node.func, hidden_states, *modulation)

    def _is_norm(self, node: ast.expr, hidden_states: ast.Name) -> bool:
        """Whether it is `self.<norm>(hidden_states.float())`."""
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and _is(node.func.value, self._self)
            and "norm" in node.func.attr
            and not node.keywords
            and len(node.args) == 1
            and _is(raised(node.args[0]), hidden_states.id)
        )

    def _round_trip(self, node: ast.expr, hidden_states: ast.Name) -> ast.expr | None:
        parts = _sum_with_product(node) if isinstance(node, ast.BinOp) else None
        if parts is None or not _is(raised(parts[0]), hidden_states.id):
            return None
        factors = parts[1].left, parts[1].right
        plain = [raised(each) or each for each in factors]
        is_raised = [ast.Constant(raised(each) is not None) for each in factors]
        self._count("gated residual by way of fp32", 6)
        return self._call("sum_in_fp32", hidden_states, *plain, *is_raised)

    def _call(self, name: str, *arguments: ast.expr) -> ast.Call:
        own = ast.Name(self._self, ast.Load())
        call = ast.Call(ast.Name(PREFIX + name, ast.Load()), [own, *arguments], [])
        return ast.copy_location(call, arguments[0])

    def _count(self, label: str, saved: int) -> None:
        self.found[label] += 1
        self.saved += saved


def cast_to(node: ast.Call) -> ast.Name | None:
    """The name that a call `(...).type_as(name)` is given."""
    cast = isinstance(node.func, ast.Attribute) and node.func.attr == "type_as"
    plain = len(node.args) == 1 and not node.keywords
    return node.args[0] if cast and plain and isinstance(node.args[0], ast.Name) else None


def raised(node: ast.expr) -> ast.expr | None:
    """What `.float()` is called on."""
    call = node if isinstance(node, ast.Call) and not node.args and not node.keywords else None
    named = call is not None and isinstance(call.func, ast.Attribute) and call.func.attr == "float"
    return call.func.value if call and named and isinstance(call.func, ast.Attribute) else None


def _is(node: ast.expr | None, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _sum_with_product(node: ast.BinOp) -> tuple[ast.expr, ast.BinOp] | None:
    """A sum's other summand, a variable or a slice of one, and what gates the rest."""
    if not isinstance(node.op, ast.Add):
        return None
    for other, product in ((node.left, node.right), (node.right, node.left)):
        if _is_gating(product) and isinstance(_whole(raised(other) or other), ast.Name):
            assert isinstance(product, ast.BinOp)
            return other, product
    return None


def _activated(node: ast.BinOp, own: str) -> tuple[ast.Call | None, ast.Call | None]:
    """Of `F.silu(a) * b` or `self.act_fn(a) * b` the call; the second where it is the other way."""
    if not isinstance(node.op, ast.Mult):
        return None, None
    left, right = (each if _activates(each, own) else None for each in (node.left, node.right))
    return left, None if left else right


def _activates(node: ast.expr, own: str) -> TypeGuard[ast.Call]:
    """Whether it calls an activation with one argument."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    if len(node.args) != 1 or node.keywords:
        return False
    return node.func.attr in (_MODULES if _is(node.func.value, own) else _FUNCTIONS)


def _is_gating(node: ast.expr) -> bool:
    """Whether it is a product of two things, none a number, an attribute, or `1 + scale`."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
        return False
    factors = [_whole(each) for each in (node.left, node.right)]
    return not any(
        isinstance(each, (ast.Constant, ast.Attribute))
        for factor in factors
        for each in (factor, *_summands(factor))
    )


def _whole(node: ast.expr) -> ast.expr:
    """Of `x[...]` x."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node


def _summands(node: ast.expr) -> list[ast.expr]:
    return [node.left, node.right] if isinstance(node, ast.BinOp) else []


def _added_later(definition: ast.FunctionDef) -> dict[int, int]:
    """Assignments `x = gate * y` of which x is next used as a summand; both by id."""
    nodes = list(ast.walk(definition))
    products = [each for each in nodes if isinstance(each, ast.Assign) and _gates_a_name(each)]
    inside = {id(each) for product in products for each in ast.walk(product)}
    summands = {
        id(each)
        for node in nodes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)
        for each in (node.left, node.right)
    }
    loads = sorted(
        (each for each in nodes if isinstance(each, ast.Name) and id(each) not in inside),
        key=lambda each: (each.lineno, each.col_offset),
    )
    added = {}
    for product in products:
        target = product.targets[0]
        assert isinstance(target, ast.Name)
        later = (
            each
            for each in loads
            if isinstance(each.ctx, ast.Load)
            and each.id == target.id
            and each.lineno > (product.end_lineno or product.lineno)
        )
        first = next(later, None)
        if first is not None and id(first) in summands:
            added[id(product)] = id(first)
    return added


def _gates_a_name(node: ast.Assign) -> bool:
    return (
        len(node.targets) == 1 and isinstance(node.targets[0], ast.Name) and _is_gating(node.value)
    )
