"""`step_cache` in recorded forwards: a full one leaves features, a shallow one is given forecasts.

A forecast depends on the step's number, so it is computed before the replay, not in it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .graph_parts import Left
from .step_cache_state import Call

if TYPE_CHECKING:
    import torch

    from .step_cache_state import FeatureCache


@dataclass
class RecordedCall(Call):
    """A forward that is being recorded: it reads what it is given, and keeps nothing."""

    given: dict[Hashable, Any] = field(default_factory=dict)
    kept: dict[Hashable, Any] = field(default_factory=dict)

    def keep(self, key: Hashable, value: Any) -> None:
        self.kept[key] = value

    def has(self, key: Hashable) -> bool:
        return key in self.given

    def predict(self, key: Hashable) -> Any:
        return self.given[key]


class StepCachePart:
    """What a cache does in the forward that is on; `call` is that forward."""

    def __init__(self, cache: FeatureCache, call: Call) -> None:
        self._cache, self._call = cache, call
        outlines, histories = call.stream.outlines, call.stream.histories
        self._names = tuple(histories) if call.shallow else ()
        known = frozenset(outlines) if call.shallow else frozenset()
        self.key: Hashable = ("step_cache", call.shallow, self._names, known)
        self.tensors: list[torch.Tensor] = [call.predict(name) for name in self._names]

    @contextmanager
    def recording(self, tensors: Sequence[torch.Tensor]) -> Iterator[Left]:
        """Inside, features are noted, and these tensors are the forecasts."""
        call, left = self._call, Left()
        outlines = dict(call.stream.outlines) if call.shallow else {}
        stream = replace(call.stream, histories={}, outlines=outlines)
        given = dict(zip(self._names, tensors, strict=True))
        recorded = RecordedCall(
            *(call.step, call.point, stream, call.shallow, call.order), given=given
        )
        with self._cache.instead(recorded):
            yield left
        left.tensors = list(recorded.kept.values())
        left.notes = tuple(recorded.kept), stream.outlines

    def leave(self, left: Left, tensors: Sequence[torch.Tensor]) -> None:
        """Keep the features that a replay has written."""
        names, outlines = left.notes
        self._call.stream.outlines.update(outlines)
        for name, tensor in zip(names, tensors, strict=True):
            self._call.keep(name, tensor)


def part_of(cache: FeatureCache) -> StepCachePart | None:
    """The cache's part in the forward that begins; None where that is stock's."""
    call = cache.call
    return None if call is None else StepCachePart(cache, call)
