"""Calls of torch as the lines of one Python function, which nothing but these calls is in.

Tensors are the function's local variables, deleted after their last use, so that no more of them
are there at once than in the code they were taken from; functions, weights and other objects are
its globals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .graph_inputs import UncapturableError

_OPAQUE = (torch.dtype, torch.device, torch.layout, torch.memory_format, type)
_FILE = "<a denoiser's forward, flattened by sdaccel>"


@dataclass(frozen=True)
class Line:
    """One call, as text; `targets` name its results, `uses` what it reads.

    `writes` tells that it must stay though nobody reads its results.
    """

    text: str
    targets: tuple[str, ...]
    uses: frozenset[str]
    writes: bool


class Code:
    """Lines as they are written down; `name_of` names a tensor, or gives None where it is none."""

    def __init__(self, name_of: Callable[[torch.Tensor], str | None]) -> None:
        self._name_of = name_of
        self._lines: list[Line] = []
        self._globals: dict[str, Any] = {}
        self._constants: dict[int, str] = {}
        self._count = 0

    def fresh(self) -> str:
        """A name that no tensor has."""
        self._count += 1
        return f"t{self._count}"

    def add(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        targets: Sequence[str],
        unpacked: bool,
        writes: bool,
    ) -> None:
        """Write down a call; `unpacked` tells that its result is a sequence with these names."""
        uses: set[str] = set()
        given = [self._literal(each, uses) for each in args]
        given += [f"{name}={self._literal(each, uses)}" for name, each in kwargs.items()]
        text = f"{self._constant(function)}({', '.join(given)})"
        if unpacked:
            text = f"[{', '.join(targets)}] = {text}"
        elif targets:
            text = f"{targets[0]} = {text}"
        self._lines.append(Line(text, tuple(targets), frozenset(uses), writes))

    def function(
        self, inputs: Sequence[str], outputs: Sequence[torch.Tensor]
    ) -> Callable[..., Any]:
        """The function of these inputs that returns a tuple of these tensors."""
        uses: set[str] = set()
        returned = self._literal(tuple(outputs), uses)
        lines = [f"def flat({', '.join(inputs)}):"]
        lines += [f" {each}" for each in _with_deletions(self._lines, uses, set(inputs))]
        lines.append(f" return {returned}")
        exec(compile("\n".join(lines), _FILE, "exec"), self._globals)
        made: Callable[..., Any] = self._globals.pop("flat")
        return made

    def _literal(self, value: Any, uses: set[str]) -> str:
        """How the code writes a value; what it reads of other lines is added to `uses`."""
        if isinstance(value, torch.Tensor):
            name = self._name_of(value)
            if name is None:
                return self._constant(value)
            uses.add(name)
            return name
        if isinstance(value, (tuple, list)):
            inner = "".join(f"{self._literal(each, uses)}, " for each in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner})"
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return f"slice({', '.join(self._literal(each, uses) for each in parts)})"
        if value is None or value is ... or type(value) in (bool, int, str):
            return repr(value) if value is not ... else "..."
        if type(value) is float and math.isfinite(value):
            return repr(value)
        if isinstance(value, (*_OPAQUE, float, int, complex)):
            return self._constant(value)
        raise UncapturableError(f"a function of torch is given a {type(value).__name__}")

    def _constant(self, value: Any) -> str:
        name = self._constants.setdefault(id(value), f"c{len(self._constants)}")
        self._globals[name] = value
        return name


def _with_deletions(lines: Iterable[Line], wanted: set[str], inputs: set[str]) -> list[str]:
    """The text of the lines that somebody needs, with what ends each tensor's life after it."""
    needed, texts = set(wanted), list[str]()
    for line in reversed(list(lines)):
        if not line.writes and needed.isdisjoint(line.targets):
            continue
        over = {*line.uses, *line.targets} - needed - inputs
        if over:
            texts.append(f"del {', '.join(sorted(over))}")
        texts.append(line.text)
        needed |= line.uses
    return texts[::-1]
