"""Where attention is routed: a processor's own code, with other globals.

diffusers calls `torch.nn.functional.scaled_dot_product_attention` (51 processors and blocks, every
UNet's among them) or its own `dispatch_attention_fn` (94), always by a global of the module around.
So the object gets a subclass of its own class, under the same name, whose method has the same code
and a copy of those globals in which only these two are others. Nothing is retyped, and no module or
class of diffusers changes. Code that looks attention up in another way is left as it is.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch

from ..patch import same_name_subclass

_ATTENTION = "scaled_dot_product_attention"
Function = Callable[..., Any]


class Seam:
    """Makes the subclasses of one pass; `stand_ins` pairs each stock function with its own."""

    def __init__(self, stand_ins: list[tuple[Function, Function]]) -> None:
        self._functions = {id(stock): mine for stock, mine in stand_ins}
        mine = self._functions[id(torch.nn.functional.scaled_dot_product_attention)]
        functional = _copy(torch.nn.functional, {_ATTENTION: mine})
        nn = _copy(torch.nn, {"functional": functional})
        self._modules = {
            id(torch.nn.functional): (functional, {_ATTENTION}),
            id(torch.nn): (nn, {_ATTENTION, "functional"}),
            id(torch): (_copy(torch, {"nn": nn}), {_ATTENTION, "functional", "nn"}),
        }
        self._globals: dict[int, dict[str, Any]] = {}
        self._subclasses: dict[type, type | None] = {}

    def subclass_of(self, kind: type) -> type | None:
        """The class whose attention is routed; None where `kind` calls none that is known."""
        if kind not in self._subclasses:
            self._subclasses[kind] = self._make_subclass(kind)
        return self._subclasses[kind]

    def made(self, kind: type) -> bool:
        """Whether this is one of the subclasses made here."""
        return any(kind is each for each in self._subclasses.values())

    def _make_subclass(self, kind: type) -> type | None:
        methods = {}
        for name, function in _methods(kind).items():
            changes = self._changes(function, set())
            if changes:
                methods[name] = self._with_globals(function, changes)
        if not methods:
            return None
        return same_name_subclass(kind, {**methods, **_shown_as(kind)})

    def _changes(self, function: types.FunctionType, seen: set[int]) -> dict[str, Any]:
        """Of a function's globals, those that lead to attention, and what takes their place."""
        names, around = _names(function.__code__), function.__globals__
        seen.add(id(function))
        changes: dict[str, Any] = {}
        for name in names & around.keys():
            value = around[name]
            module, needed = self._modules.get(id(value), (None, set()))
            if id(value) in self._functions:
                changes[name] = self._functions[id(value)]
            elif module is not None and needed <= names:
                changes[name] = module
            elif _is_helper(value, around) and id(value) not in seen:
                inner = self._changes(value, seen)
                if inner:
                    changes |= inner
                    changes[name] = self._with_globals(value, inner)
        return changes

    def _with_globals(
        self, function: types.FunctionType, changes: dict[str, Any]
    ) -> types.FunctionType:
        """The same function, its code a copy: Dynamo keeps what it compiles by code object.

        Without `__name__`, or Dynamo would look globals up in the module of that name.
        """
        around = function.__globals__
        copy = self._globals.setdefault(
            id(around), {name: value for name, value in around.items() if name != "__name__"}
        )
        copy.update(changes)
        code, closure = function.__code__.replace(), function.__closure__
        mine = types.FunctionType(code, copy, function.__name__, function.__defaults__, closure)
        mine.__kwdefaults__ = function.__kwdefaults__
        functools.update_wrapper(mine, function)
        vars(mine).pop("__wrapped__")  # it is no wrapper, and its signature is its own
        return mine


def _methods(kind: type) -> dict[str, types.FunctionType]:
    """The methods of a class, its bases' included, those of torch's own classes left out."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        found.update(vars(base))
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, types.FunctionType) and not str(value.__module__).startswith("torch.")
    }


def _names(code: types.CodeType) -> set[str]:
    """The globals and attributes that code asks for, those of functions within it included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _is_helper(value: Any, around: dict[str, Any]) -> bool:
    return isinstance(value, types.FunctionType) and value.__globals__ is around


def _copy(module: types.ModuleType, changes: dict[str, Any]) -> types.ModuleType:
    """A module that holds the same, but for `changes`."""
    copy = types.ModuleType(module.__name__, module.__doc__)
    copy.__dict__.update(vars(module))
    copy.__dict__.update(changes)
    return copy


def _shown_as(kind: type) -> dict[str, Any]:
    """diffusers finds processors in sets and registries by `processor.__class__`: it gets stock's.

    `type` and `object.__setattr__` still see the subclass, so a patch can set and undo it.
    """
    if issubclass(kind, torch.nn.Module):
        return {}
    true_class: Any = vars(object)["__class__"]
    return {"__class__": property(lambda _self: kind, true_class.__set__)}
