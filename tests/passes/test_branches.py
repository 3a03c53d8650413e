"""Branches of a function that an instance takes: decided by its own attributes, or left open."""

from __future__ import annotations

import ast
from types import SimpleNamespace
from typing import Any

import pytest

from sdaccel.passes.branches import Branches, taken
from sdaccel.passes.rewrite import syntax_of


class Block:
    def by_kind(self, x: Any) -> Any:
        if self.kind == "a":  # type: ignore[attr-defined]
            x = 1
        elif self.kind in ["b", "c"]:  # type: ignore[attr-defined]
            x = 2
        else:
            x = 3
        return x

    def by_input(self, x: Any) -> Any:
        if x is None:
            x = 1
        if self.kind == "a" and x is None:  # type: ignore[attr-defined]
            x = 2
        if not self.left:  # type: ignore[attr-defined]
            x = 3
        return x


def values(method: Any, **attributes: Any) -> list[Any]:
    """The constants that are assigned on the way that an instance takes."""
    definition = syntax_of(method)
    assert definition
    decisions = Branches(definition).decisions(SimpleNamespace(**attributes))
    nodes = ast.walk(taken(definition, decisions))
    return sorted(each.value.value for each in nodes if isinstance(each, ast.Assign))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "expected"), [("a", 1), ("c", 2), ("d", 3)])
def test_the_branch_that_an_attribute_decides_is_taken(kind: str, expected: int) -> None:
    assert values(Block.by_kind, kind=kind) == [expected]


def test_what_more_than_attributes_decides_stays_open() -> None:
    assert values(Block.by_input, kind="b", left=False) == [1, 2, 3]
    assert values(Block.by_input, kind="b", left=True) == [1, 2]


def test_an_attribute_that_is_not_there_decides_nothing() -> None:
    assert values(Block.by_kind) == [1, 2, 3]


def test_the_definition_itself_stays_as_it_is() -> None:
    definition = syntax_of(Block.by_kind)
    assert definition
    before = ast.dump(definition)
    taken(definition, Branches(definition).decisions(SimpleNamespace(kind="a")))
    assert ast.dump(definition) == before
