"""A host's function, read from its source, in which some expressions are others.

Blocks of transformers write the same few expressions inline, in some 60 files. Where they stand is
found in the source's syntax tree, and a copy of the function is compiled in which they are calls
that mean the same. Line numbers stay those of the host's file. What can't be read that way, code
without source, decorated functions, closures, stays as it is.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

Function = Callable[..., Any]


def syntax_of(function: Function) -> ast.FunctionDef | None:
    """The syntax tree of a function's definition; None where it can't be read or is decorated."""
    try:
        source = inspect.getsource(function.__code__)
        tree = ast.parse(textwrap.dedent(source))
    except (AttributeError, OSError, SyntaxError):
        return None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef) or definition.decorator_list:
        return None
    ast.increment_lineno(definition, function.__code__.co_firstlineno - 1)
    return definition


def rewritten(
    function: Function, change: Callable[[ast.FunctionDef], Any], names: dict[str, Any]
) -> Function | None:
    """`function` after `change` has worked on its syntax tree; `names` are globals for what is new.

    Its other globals are those that it has now, be they its module's or another pass's. None where
    the source can't be read, or where the copy would not see the same free variables.
    """
    definition = syntax_of(function)
    if definition is None or function.__code__.co_freevars or _mangles(definition):
        return None
    change(definition)
    around = {**function.__globals__, **names}
    # where globals name a module, Dynamo reads that module's instead, which are the host's
    around.pop("__name__", None)
    code = _compiled(definition, function)
    copy = FunctionType(code, around, function.__name__, function.__defaults__)
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, function.__annotations__
    copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
    copy.__doc__ = function.__doc__
    copy.__dict__.update(function.__dict__)
    return copy


def fingerprint(definition: ast.FunctionDef) -> str:
    """Short hash of what a definition says, whatever its comments, docstring and layout.

    The same under every version of Python, which `ast.unparse` and `ast.dump` are not.
    """
    body = definition.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    text = _said([[each.arg for each in definition.args.args], body])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _said(node: Any) -> str:
    if isinstance(node, list):
        return f"[{','.join(map(_said, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    given = [(name, each) for name, each in ast.iter_fields(node) if each not in (None, [])]
    fields = [f"{name}={_said(each)}" for name, each in given]
    return f"{type(node).__name__}({','.join(fields)})"


def _compiled(definition: ast.FunctionDef, original: Function) -> CodeType:
    module = ast.Module(body=[definition], type_ignores=[])
    ast.fix_missing_locations(module)
    code = compile(module, original.__code__.co_filename, "exec", dont_inherit=True)
    return next(
        each
        for each in code.co_consts
        if isinstance(each, CodeType) and each.co_name == original.__name__
    )


def _mangles(definition: ast.FunctionDef) -> bool:
    """Whether names in it would mean something else outside of their class."""
    return any(
        isinstance(each, ast.Attribute)
        and each.attr.startswith("__")
        and not each.attr.endswith("__")
        for each in ast.walk(definition)
    )
