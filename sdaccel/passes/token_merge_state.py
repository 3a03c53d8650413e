"""One denoiser's token maps: which call of which step this is, and which maps still serve it.

A map serves the same block in the same call (such as the conditional one) of a few steps of one
generation, for the same sizes and the same text, and nothing else. Outside a generation, in a loop
that no clock follows, every forward matches anew. No tensor is read by the host.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .step_cache_state import arguments_of, condition_of
from .streams import Stream, Streams

if TYPE_CHECKING:
    import torch

    from ..clock import Clock
    from ..report import PassRecord
    from .expected_seconds import Rates
    from .token_map import TokenMap
    from .token_merge_gain import Merging


@dataclass(eq=False)
class MapStream(Stream):
    """The maps for one call of each step, by block, each with the step that it was made at."""

    maps: dict[Hashable, tuple[int, TokenMap]] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """The arguments of a denoiser's forward that is running, by name."""

    host: Any
    arguments: dict[str, Any]


class MergeState:
    """The maps of one denoiser, each serving `every` steps, and the counts for the report."""

    def __init__(self, name: str, clock: Clock, record: PassRecord, every: int) -> None:
        self.name = name
        self.record = record
        self.given: Given | None = None
        self._clock = clock
        self._every = every
        self._streams = Streams(MapStream)
        self._stream: MapStream | None = None
        self._judged: dict[Merging, bool] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> MergeState:
        """A copied denoiser starts with nothing, and is driven by no clock."""
        from ..clock import Clock

        return MergeState(self.name, Clock(), self.record, self._every)

    def begin(self, host: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The denoiser is called: its forward pre-hook."""
        import torch

        self.end()
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return
        self.given = Given(host, arguments_of(host, args, kwargs))
        condition = condition_of(self.given.arguments)
        if self._clock.scheduler is None:
            self._streams.clear()
            self._stream = MapStream(None, condition)
        else:
            self._streams.arrive(self._clock.generation, self._clock.step)
            self._stream, _ = self._streams.of(None, condition)

    def end(self) -> None:
        """The denoiser's forward is over: its forward hook."""
        self.given = self._stream = None

    def reset(self) -> None:
        """Forget everything: a generation begins, or the pipe's call is over."""
        self._streams.clear()
        self.end()

    def map_for(
        self, block: Hashable, tokens: torch.Tensor, make: Callable[[], TokenMap]
    ) -> TokenMap:
        """The map that serves a block for tokens (B, N, C): a kept one, or what `make` makes."""
        stream, step, ran = self._stream, self._clock.step, self.record.ran
        key = (block, tuple(tokens.shape), tokens.device)
        made = stream.maps.get(key) if stream is not None else None
        if made is not None and step - made[0] < self._every:
            ran[f"{self.name} merged by a kept map"] += 1
            return made[1]
        found = make()
        if stream is not None:
            stream.maps[key] = step, found
        ran[f"{self.name} merged by a new map"] += 1
        return found

    def pays(self, merging: Merging, rates: Rates) -> bool:
        """Whether it is expected to save time; where not, the report says why, once a size."""
        if merging not in self._judged:
            self._judged[merging] = merging.pays(rates)
            if not self._judged[merging]:
                self.record.note(f"{self.name}: {merging.reason(rates)}")
        return self._judged[merging]
