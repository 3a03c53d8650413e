"""Functions read from their source and compiled with other expressions in them."""

from __future__ import annotations

import ast
import functools
import traceback
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sdaccel.passes.rewrite import fingerprint, rewritten, syntax_of


def scaled(x: float, factor: float = 3.0, *, plus: float = 1.0) -> float:
    """Something to rewrite."""
    return x * factor + plus


def same_scaled(x: float, factor: float = 3.0, *, plus: float = 1.0) -> float:
    # another comment, another layout
    return (x * factor
            + plus)  # fmt: skip


def other(x: float, factor: float = 3.0, *, plus: float = 1.0) -> float:
    """Something to rewrite."""
    return x * factor - plus


def failing(x: float) -> float:
    return x * (1 / 0)


@functools.wraps(scaled)
def decorated(x: float) -> float:
    return x * 2


def enclosing(factor: float) -> Callable[[float], float]:
    def inner(x: float) -> float:
        return x * factor

    return inner


class Mangled:
    __own = 2

    def method(self, x: Any) -> Any:
        return self.__own * x


class Products(ast.NodeTransformer):
    """Every product becomes a call."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Mult):
            return node
        call = ast.Call(ast.Name("_product", ast.Load()), [node.left, node.right], [])
        return ast.copy_location(call, node)


def doubled(function: Callable[..., Any]) -> Any:
    names = {"_product": lambda one, other: 2 * one * other}
    return rewritten(function, Products().visit, names)


def test_the_copy_has_other_expressions_and_the_same_defaults() -> None:
    copy = doubled(scaled)
    assert copy(1.0) == 7.0
    assert copy(1.0, 2.0, plus=0.0) == 4.0
    assert scaled(1.0) == 4.0
    assert copy.__name__ == "scaled"
    assert copy.__doc__ == scaled.__doc__


def half(x: float) -> float:
    return x / 2


def halved(x: float) -> float:
    return half(x) * 3


def test_globals_that_another_pass_has_replaced_stay_replaced() -> None:
    around = {**halved.__globals__, "half": lambda x: 10 * x}
    replaced = types.FunctionType(halved.__code__, around, "halved")
    assert doubled(halved)(1.0) == 3.0
    assert doubled(replaced)(1.0) == 60.0


def test_the_compiler_reads_the_copy_s_own_globals() -> None:
    def outer(x: torch.Tensor) -> torch.Tensor:
        return inner(x) + 1

    inner = doubled(scaled)
    compiled = torch.compile(outer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 8.0))


def test_what_fails_is_shown_at_its_own_line() -> None:
    lines = []
    for function in (failing, doubled(failing)):
        with pytest.raises(ZeroDivisionError) as caught:
            function(1.0)
        lines.append(traceback.extract_tb(caught.tb)[-1])
    assert lines[0].lineno == lines[1].lineno
    assert lines[0].filename == lines[1].filename


@pytest.mark.parametrize(
    "function", [enclosing(2.0), Mangled.method, decorated], ids=["closure", "mangled", "decorated"]
)
def test_what_the_copy_would_not_do_the_same_way_is_left(function: Callable[..., Any]) -> None:
    assert doubled(function) is None


def test_what_has_no_source_is_left() -> None:
    names: dict[str, Any] = {}
    exec("def sourceless(x):\n    return x * 2\n", names)
    assert doubled(names["sourceless"]) is None
    assert syntax_of(len) is None


def test_a_fingerprint_is_of_what_is_said_not_of_how() -> None:
    prints = []
    for function in (scaled, same_scaled, other):
        definition = syntax_of(function)
        assert definition
        prints.append(fingerprint(definition))
    assert prints[0] == prints[1] != prints[2]
