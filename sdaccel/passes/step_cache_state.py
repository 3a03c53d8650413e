"""One denoiser's cached state: which call this is, whether it is shallow, what is kept for it.

Calls are told apart by the clock: generation, step, and call within the step (with sequential
guidance the conditional one, then the unconditional one). What was kept for a call serves the same
call of a later step of the same generation, of the same sizes and the same text, and nothing else.
Whether a call is shallow follows from numbers that the host has: no tensor is read.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .generation_choice import GenerationChoice
from .step_cache_history import History
from .streams import Stream, Streams

if TYPE_CHECKING:
    from ..clock import Clock
    from ..report import PassRecord
    from .step_cache_paths import Path
    from .step_cache_schedule import Choice, Chooses

_CONDITIONS = ("encoder_hidden_states", "cap_feats", "class_labels", "context")
"""Arguments of denoisers that say what is to be drawn."""

Recorder = Callable[[Hashable, int, Any], None]
"""Is told of all that is kept: which tensor it is, at which step, and its value."""


@dataclass(eq=False)
class CachedStream(Stream):
    """What is kept for one call of each step, such as the conditional one.

    `histories` holds a tensor's values for each key, and `outlines` is for those who skip: what
    their results look like. `late` is one that came up amid a generation, `fulls` counts the full
    steps of the schedule.
    """

    histories: dict[Hashable, History] = field(default_factory=dict)
    outlines: dict[Hashable, Any] = field(default_factory=dict)
    late: bool = False
    fulls: int = 0

    def lacks(self, choice: Choice) -> bool:
        """Whether a forecast would have other full steps behind it than those measured."""
        return choice.measured and self.late and 0 < choice.order >= self.fulls


@dataclass
class Call:
    """One forward of the denoiser; `scratch` is for those who skip, for this call alone.

    With `whole` a shallow one runs nothing of the denoiser. `point` is where the step lies in the
    variable that forecasts go by. One that `passes` keeps nothing.
    """

    step: int
    point: float
    stream: CachedStream
    shallow: bool
    order: int
    recorder: Recorder | None = None
    scratch: dict[Hashable, Any] = field(default_factory=dict)
    whole: bool = False
    passes: bool = False

    def keep(self, key: Hashable, value: Any) -> None:
        """Keep the value that a tensor has at this full step."""
        if self.passes:
            return
        if self.recorder is not None:
            self.recorder((id(self.stream), key), self.step, value)
        self.stream.histories.setdefault(key, History(self.order)).keep(self.point, value)

    def has(self, key: Hashable) -> bool:
        """Whether a value was kept at an earlier step."""
        return bool(self.stream.histories.get(key))

    def predict(self, key: Hashable) -> Any:
        """The value that a tensor may have at this step, computed once a call."""
        if key not in self.scratch:
            self.scratch[key] = self.stream.histories[key].predict(self.point)
        return self.scratch[key]


class FeatureCache:
    """The cached state of one denoiser, and the counts for the report.

    `path` is set while a whole denoiser is traced; blocks go by it then, not by the `call`.
    """

    def __init__(self, name: str, clock: Clock, schedule: Chooses, record: PassRecord) -> None:
        self.name = name
        self.recorder: Recorder | None = None
        self.path: Path | None = None
        self.choice = GenerationChoice(name, clock, schedule, record)
        self._clock = clock
        self._given_up = False
        self._record = record
        self._streams = Streams(CachedStream)
        self._asked: tuple[Hashable, Any] | None = None
        self._call: Call | None = None
        self._host: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureCache:
        """A copied denoiser starts with nothing, and is driven by no clock: it computes fully."""
        from ..clock import Clock

        return FeatureCache(self.name, Clock(), self.choice.schedule, self._record)

    def begin(self, host: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The denoiser is called: its forward pre-hook."""
        import torch

        if torch.compiler.is_compiling():  # what is traced computes everything
            self._call = self._asked = None
            return
        self._host, self._call = host, None
        self._asked = signature_of(args, kwargs), condition_of(arguments_of(host, args, kwargs))

    def end(self) -> None:
        """The denoiser's forward is over: its forward hook."""
        call, self._call, self._asked, self._host = self._call, None, None, None
        if call is not None:
            skipped = "left out" if call.whole else "shallow"
            self._record.ran[f"{self.name} {skipped if call.shallow else 'full'}"] += 1
            key = f"{self.name} bytes kept at most"
            self._record.ran[key] = max(self._record.ran[key], self.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept now."""
        return sum(h.nbytes for each in self._streams for h in each.histories.values())

    def reset(self) -> None:
        """Forget everything: a generation begins, or the pipe's call is over."""
        self._streams.clear()
        self.choice.reset()
        self._call = self._asked = None

    @property
    def call(self) -> Call | None:
        """The forward that is running, for blocks: None where each of them does what stock's does.

        So it is in a generation that leaves out the whole denoiser, or nothing of it.
        """
        call = self.current
        return None if call is None or call.whole else call

    @property
    def current(self) -> Call | None:
        """The forward that is running; None where it is stock's from beginning to end.

        Decided when it is first asked for, since the clock knows the number of steps by then.
        """
        if self._call is None and self._asked is not None:
            self._call = self._decide(*self._asked)
            if self._call is None:
                self._asked = None
        return self._call

    @property
    def leaves_out_all(self) -> bool:
        """Whether the forward that is running computes nothing of the denoiser."""
        call = self.current
        return call is not None and call.whole and call.shallow

    @contextmanager
    def instead(self, call: Call) -> Iterator[None]:
        """Inside, this is the forward that is running."""
        before, self._call = self._call, call
        try:
            yield
        finally:
            self._call = before

    def give_up(self, reason: str) -> None:
        """Compute everything from now on, since the blocks are not what they seemed to be."""
        self._record.note(f"{self.name}: nothing is skipped, {reason}")
        self._given_up = True

    def _decide(self, signature: Hashable, condition: Any) -> Call | None:
        import torch

        clock, total = self._clock, self._clock.total_steps
        if total is None or torch.is_grad_enabled():
            return None
        if getattr(self._host, "_cache_config", None) is not None:
            self._record.note(f"{self.name}: nothing is skipped while diffusers' own cache is on")
            return None
        choice = self.choice.of(total)
        self._streams.arrive(clock.generation, clock.step)
        stream, known = self._streams.of(signature, condition)
        full = self._given_up or clock.step in choice.full or clock.step >= total
        stream.late |= not known and clock.step > 0
        stream.fulls += full
        passes = not full and stream.lacks(choice)
        shallow, point = known and not (full or passes), self.choice.point(clock.step, total)
        if not (full or shallow):
            self._record.ran[f"{self.name} full for a new text or size"] += 1
        return Call(
            *(clock.step, point, stream, shallow, choice.order, self.recorder),
            whole=choice.whole,
            passes=passes,
        )


def signature_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    """The sizes, dtypes and devices of all tensors in a call."""
    import torch
    from torch.utils import _pytree

    leaves = _pytree.tree_leaves((args, kwargs))
    return tuple(
        (tuple(each.shape), each.dtype, each.device)
        for each in leaves
        if isinstance(each, torch.Tensor)
    )


def arguments_of(host: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a denoiser, by name."""
    kind: Any = type(host)
    return {**dict(zip(_parameters(kind), args, strict=False)), **kwargs}


def condition_of(given: dict[str, Any]) -> Any:
    """The tensor of a call's text or class; the first of a list; None where there is none."""
    found = next((given[name] for name in _CONDITIONS if given.get(name) is not None), None)
    while isinstance(found, (list, tuple)) and found:
        found = found[0]
    return found


@functools.cache
def _parameters(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]
