"""Transformers: on a shallow step the middle blocks are passed by, and their change is predicted.

What the skipped blocks of a list have added to each of their streams (the picture's, and the text's
where a block returns both) is kept at a full step; a shallow step adds it to what enters them. The
blocks' streams are read from their source: the arguments that `forward` returns by name.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .pending import version_of
from .rewrite import syntax_of

if TYPE_CHECKING:
    import torch

    from ..patch import Patch
    from .step_cache_paths import Path
    from .step_cache_state import Call, FeatureCache

_SIDE = 10
"""Lists of fewer blocks than a tenth of the longest are no part of the trunk, as refiners are none
(2 beside 30 in Z-Image, 2 beside 26 in Lumina2), unlike AuraFlow's 4 joint blocks beside 32."""

_NEWEST = "newest block"
_TURNS = "its lists of blocks take turns"


def transformer_obstacle(model: Any, first: int, last: int) -> str | None:
    """Why nothing can be left out of a transformer, in half a sentence, or None."""
    lists = _trunk(model)
    if not lists:
        return "no list of blocks is known whose results are among their arguments"
    blocks = sum(map(len, lists))
    if not _middles(lists, first, last):
        return f"it has {blocks} blocks, and first={first} with last={last} leaves none to skip"
    return None


def skip_in_transformer(
    model: Any, first: int, last: int, cache: FeatureCache, patch: Patch
) -> int:
    """Let shallow calls pass by all but the first and last blocks; returns how many they skip."""
    skipped = 0
    for number, middle in enumerate(_middles(_trunk(model), first, last)):
        for index, block in enumerate(middle):
            place = Place(number, index, len(middle))
            patch.set(block, "forward", PassedBy(block, place, cache))
        skipped += len(middle)
    return skipped


@dataclass(frozen=True)
class Place:
    """Where a block stands in the middle of its list; `key` is the middle's number."""

    key: int
    index: int
    count: int

    @property
    def is_last(self) -> bool:
        """Whether it is the middle's last block."""
        return self.index == self.count - 1


class PassedBy:
    """Stands where a block's `forward` is looked up, for one that shallow calls pass by.

    There it returns what it is given, the last one with the predicted change added to what was
    given to the first: what the host adds in between (a ControlNet's residuals) is part of it.
    """

    def __init__(self, block: torch.nn.Module, place: Place, cache: FeatureCache) -> None:
        functools.update_wrapper(self, block.forward)
        self._stock: Callable[..., Any] = block.forward
        self._place = place
        self._cache = cache
        kind: Any = type(block)
        self._kind = kind.__name__
        self._returns = _returns(kind)
        self._parameters = _parameters(kind)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        path = self._cache.path
        if path is None:
            return self._run(given, args, kwargs)
        self._enter(path, given)
        return self._leave(path, self._stock(*args, **kwargs))

    def _enter(self, path: Path, given: Mapping[str, Any]) -> None:
        """Traced, the block is about to run: note its place, and what goes into the middle."""
        place = self._place
        if place.index == 0:
            known = {name for names in self._returns.values() for name in names}
            path.entered = {n: v.clone() for n, v in given.items() if n in known and v is not None}
        elif path.newest != (place.key, place.index - 1):
            path.reason = _TURNS
        path.newest = place.key, place.index

    def _leave(self, path: Path, result: Any) -> Any:
        """Traced, the block has run, whether it is needed or not: what goes on to the next one."""
        several = isinstance(result, tuple)
        results = result if several else (result,)
        streams = self._returns.get((several, len(results)))
        if streams is None:
            path.reason = f"{self._kind} returned something else than its streams"
            return result
        if not self._place.is_last:
            return result
        changed = tuple(map(functools.partial(self._change, path), streams, results))
        return changed if several else changed[0]

    def _change(self, path: Path, name: str, value: Any) -> Any:
        """Traced, a stream behind the middle: as it is and kept, or with the given change."""
        before, key = path.entered.get(name), f"{self._place.key} {name}"
        if value is None:
            return None
        if before is None or before.shape != value.shape:
            path.reason = f"{self._kind} returns its {name} in another size"
            return value
        if path.given is not None:
            return before + path.given[key]
        path.kept[key] = value - before
        return value

    def _run(self, given: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = self._cache.call
        if call is None:
            return self._stock(*args, **kwargs)
        place = self._place
        if place.index == 0:
            call.scratch[place.key] = Entered(given)
        if call.shallow and place.key in call.stream.outlines:
            return self._instead(call, given)
        result = self._stock(*args, **kwargs)
        reason = self._keep(call, result)
        if reason is not None:
            self._cache.give_up(reason)
        return result

    def _instead(self, call: Call, given: Mapping[str, Any]) -> Any:
        """What the block would have returned, had it added nothing, or what all would have."""
        key, (several, names) = self._place.key, call.stream.outlines[self]
        if self._place.is_last:
            entered = call.scratch[key].streams
            given = {name: entered[name] + call.predict((key, name)) for name in names if name}
        results = tuple(given[name] if name else None for name in names)
        return results if several else results[0]

    def _keep(self, call: Call, result: Any) -> str | None:
        """Note what the block returns, and behind the last what all have added; or why not."""
        place, before = self._place, call.scratch.get(_NEWEST)
        call.scratch[_NEWEST] = place
        if place.index and before != Place(place.key, place.index - 1, place.count):
            return _TURNS
        several = isinstance(result, tuple)
        results = result if several else (result,)
        streams = self._returns.get((several, len(results)))
        if streams is None:
            return f"{self._kind} returned something else than its streams"
        names = tuple(
            None if each is None else name for name, each in zip(streams, results, strict=True)
        )
        call.stream.outlines[self] = several, names
        return self._keep_change(call, names, results) if place.is_last else None

    def _keep_change(
        self, call: Call, names: tuple[str | None, ...], results: tuple[Any, ...]
    ) -> str | None:
        key = self._place.key
        entered = call.scratch[key]
        for name, result in zip(names, results, strict=True):
            if name is None:
                continue
            before = entered.streams.get(name)
            if before is None or before.shape != result.shape:
                return f"{self._kind} returns its {name} in another size"
            if entered.was_changed(name):
                return f"its {name} are changed in place"
            call.keep((key, name), result - before)
        call.stream.outlines[key] = True
        return None


class Entered:
    """What the first block of a middle was given."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        import torch

        self.streams = {k: each for k, each in given.items() if isinstance(each, torch.Tensor)}
        self._versions = {name: version_of(each) for name, each in self.streams.items()}

    def was_changed(self, name: str) -> bool:
        """Whether a stream was written to since."""
        return version_of(self.streams[name]) != self._versions[name]


def _trunk(model: Any) -> list[list[Any]]:
    """The lists of blocks that a model runs one after the other."""
    import torch

    found = [list(each) for each in model.children() if isinstance(each, torch.nn.ModuleList)]
    lists = [blocks for blocks in found if all(map(_is_block, blocks))]
    longest = max(map(len, lists), default=0)
    return [blocks for blocks in lists if blocks and len(blocks) * _SIDE >= longest]


def _is_block(module: Any) -> bool:
    """Whether a module attends, and is known to return some of its arguments."""
    attends = any("Attention" in type(each).__name__ for each in module.modules())
    kind: Any = type(module)
    return attends and bool(_returns(kind))


def _middles(lists: list[list[Any]], first: int, last: int) -> list[list[Any]]:
    """The lists without the first blocks of all and the last ones."""
    blocks = [(index, block) for index, each in enumerate(lists) for block in each]
    kept = blocks[first : len(blocks) - last]
    middles = ([block for at, block in kept if at == index] for index in range(len(lists)))
    return [each for each in middles if each]


@functools.cache
def _parameters(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]


@functools.cache
def _returns(kind: Any) -> dict[tuple[bool, int], tuple[str, ...]]:
    """The arguments that `forward` returns: by whether in a tuple, and how many."""
    definition = syntax_of(inspect.unwrap(kind.forward))
    nodes = ast.walk(definition or ast.Pass())
    found = {}
    for value in (node.value for node in nodes if isinstance(node, ast.Return)):
        elements = value.elts if isinstance(value, ast.Tuple) else [value]
        names = tuple(each.id for each in elements if isinstance(each, ast.Name))
        if len(names) == len(elements) and set(names) <= set(_parameters(kind)):
            found[isinstance(value, ast.Tuple), len(names)] = names
    return found
