"""A denoiser's forward, recorded once for each kind of call and replayed from then on."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from .graph_inputs import Arguments, Buffer, UncapturableError, load
from .graph_parts import Left, Part, Source, UnreadyError
from .graph_watch import Watch, obstacle_in

if TYPE_CHECKING:
    import torch

    from ..report import PassRecord
    from .graph_recorder import Recorder

_MOST_REASONS = 64
"""Kinds of calls that are remembered as ones that can't be recorded."""


@dataclass(frozen=True)
class Visit:
    """One call: its arguments, and the other passes' parts in it."""

    arguments: Arguments
    parts: tuple[Part, ...]

    @property
    def key(self) -> Hashable:
        """Equal for calls that one graph serves."""
        return self.arguments.key, tuple(part.key for part in self.parts)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that it reads besides weights."""
        return [*self.arguments.tensors, *chain.from_iterable(part.tensors for part in self.parts)]

    def run(
        self, stock: Callable[..., Any], tensors: Sequence[torch.Tensor]
    ) -> tuple[Any, list[Left]]:
        """The forward, reading these tensors in the place of its own, and keeping nothing."""
        rest = iter(tensors)

        def take(count: int) -> list[torch.Tensor]:
            return [next(rest) for _ in range(count)]

        args, kwargs = self.arguments.filled(take(len(self.arguments.tensors)))
        with ExitStack() as stack:
            lefts = [
                stack.enter_context(part.recording(take(len(part.tensors)))) for part in self.parts
            ]
            result = stock(*args, **kwargs)
        return result, lefts


class Replay(Protocol):
    """A forward that was recorded."""

    def replay(self, visit: Visit) -> tuple[Any, Mapping[str, int]]:
        """The result of a call with its key, and counts for the report.

        Raises `UncapturableError` where it turns out that it can't serve.
        """

    def forget_inputs(self) -> None:
        """Hold on to no tensor of a caller's."""


Capture = Callable[[Callable[..., Any], Visit], Replay]
"""Records a forward in a call; raises `UncapturableError`, or what recording raises."""


class Graph:
    """A recorded forward; raises `UncapturableError`, or what recording raises.

    What a caller gets are copies of what a replay has written, so no later replay changes them.
    """

    def __init__(self, stock: Callable[..., Any], visit: Visit, recorder: Recorder) -> None:
        import torch
        from torch.utils import _pytree

        self._buffers = [Buffer(each) for each in visit.tensors]
        load(self._buffers, visit.tensors)
        before = [each.tensor._version for each in self._buffers]
        with torch.inference_mode(False), torch.no_grad():
            held = [each.tensor for each in self._buffers]
            recorded = recorder.capture(functools.partial(visit.run, stock, held))
        if before != [each.tensor._version for each in self._buffers]:
            raise UncapturableError("it writes to its arguments")
        self._replay = recorded.replay
        result, self._lefts = recorded.result
        self._leaves, self._structure = _pytree.tree_flatten(result)
        for leaf in self._leaves:
            if leaf is not None and type(leaf) is not torch.Tensor:
                raise UncapturableError(f"it returns a {type(leaf).__name__}, not tensors alone")

    def replay(self, visit: Visit) -> tuple[Any, Mapping[str, int]]:
        """The result of a call with this graph's key, and how many inputs were copied or not."""
        import torch
        from torch.utils import _pytree

        copied, spared = load(self._buffers, visit.tensors)
        self._replay()
        leaves = [e.clone() if isinstance(e, torch.Tensor) else e for e in self._leaves]
        for part, left in zip(visit.parts, self._lefts, strict=True):
            part.leave(left, [each.clone() for each in left.tensors])
        counts = {"inputs copied": copied, "inputs there already": spared}
        return _pytree.tree_unflatten(leaves, self._structure), counts

    def forget_inputs(self) -> None:
        """Hold on to no tensor of a caller's."""
        for each in self._buffers:
            each.remember(None)


class Graphed:
    """Stands where a denoiser's `forward` is looked up, so its hooks run at every call.

    A kind of call runs as it is when it is first met, and is recorded when it comes again; of at
    most `limit` graphs the one that was least recently used goes.
    """

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        stock: Callable[..., Any],
        capture: Capture,
        sources: Sequence[Source],
        limit: int,
        record: PassRecord,
    ) -> None:
        functools.update_wrapper(self, stock, updated=())
        self._stock = stock
        self.__wrapped__ = self._stock
        self._name, self._module, self._capture = name, module, capture
        self._sources, self._limit, self._record = tuple(sources), limit, record
        self._watch: Watch | None = None
        self._graphs: OrderedDict[Hashable, Replay] = OrderedDict()
        self._met: OrderedDict[Hashable, None] = OrderedDict()
        self._reasons: dict[Hashable, str] = {}
        self._obstacle: str | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copied model starts without graphs; no clock drives the other passes' parts in it."""
        found = memo[id(self)] = copy.copy(self)
        found._module = copy.deepcopy(self._module, memo)
        found._stock = found.__wrapped__ = copy.deepcopy(self._stock, memo)
        found._sources = ()
        found._watch, found._obstacle = None, None
        found._graphs, found._met, found._reasons = OrderedDict(), OrderedDict(), {}
        return found

    def arrive(self, *_: Any) -> None:
        """The denoiser is about to be called: its first forward pre-hook."""
        if _is_traced():
            return
        changed = self._watch.has_changed() if self._watch is not None else "model"
        if changed is None:
            return
        if self._graphs:
            self._record.ran[f"{self._name} graphs dropped, for its {changed} changed"] += len(
                self._graphs
            )
        self.close()
        self._watch = Watch(self._module)
        self._obstacle = obstacle_in(self._module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _is_traced():
            return self._stock(*args, **kwargs)
        try:
            visit = self._visit(args, kwargs)
            graph = self._graph(visit)
            if graph is not None:
                return self._replayed(graph, visit)
        except UncapturableError as error:
            self._record.ran[f"{self._name} fallbacks"] += 1
            self._record.note(f"{self._name}: runs as it is, {error}")
        except UnreadyError:
            pass
        self._record.ran[f"{self._name} calls as they are"] += 1
        return self._stock(*args, **kwargs)

    def _replayed(self, graph: Replay, visit: Visit) -> Any:
        try:
            result, counts = graph.replay(visit)
        except UncapturableError as error:
            del self._graphs[visit.key]
            self._refuse(visit, str(error))
            raise
        self._record.ran[f"{self._name} replays"] += 1
        self._record.ran.update(counts)
        return result

    def _visit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Visit:
        """What a call is; raises `UncapturableError` or `UnreadyError`."""
        import torch

        if self._obstacle is not None:
            raise UncapturableError(self._obstacle)
        device = next(self._module.parameters()).device
        if torch.is_grad_enabled():
            raise UncapturableError("gradients are enabled")
        if torch.is_autocast_enabled(device.type):
            raise UncapturableError("autocast keeps casts that don't outlive it")
        arguments = Arguments.of(args, kwargs, device)
        parts = (source() for source in self._sources)
        return Visit(arguments, tuple(part for part in parts if part is not None))

    def _graph(self, visit: Visit) -> Replay | None:
        """The graph for a call, recorded where it comes for the second time; None for the first."""
        key = visit.key
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        if key in self._reasons:
            raise UncapturableError(self._reasons[key])
        if key not in self._met:
            self._met[key] = None
            while len(self._met) > self._limit:
                self._met.popitem(last=False)
            return None
        while len(self._graphs) >= self._limit:
            self._graphs.popitem(last=False)
            self._record.ran[f"{self._name} graphs dropped, for there were too many"] += 1
        graph = self._graphs[key] = self._captured(visit)
        return graph

    def _captured(self, visit: Visit) -> Replay:
        import time

        start = time.perf_counter()
        try:
            graph = self._capture(self._stock, visit)
        except Exception as error:
            # what recording forbids comes first; that it ended badly is told on top of it
            first = error.__context__ or error
            lines = str(first).strip().splitlines() or [type(first).__name__]
            self._refuse(visit, lines[0])
            raise UncapturableError(lines[0]) from error
        self._record.seconds["capturing"] += time.perf_counter() - start
        self._record.ran[f"{self._name} captures"] += 1
        return graph

    def _refuse(self, visit: Visit, reason: str) -> None:
        """Remember why calls of a kind can't be recorded."""
        if len(self._reasons) >= _MOST_REASONS:
            self._reasons.clear()
        self._reasons[visit.key] = reason

    def rest(self) -> None:
        """A generation begins, or is over: hold on to no tensor of it."""
        for graph in self._graphs.values():
            graph.forget_inputs()

    def close(self) -> None:
        """Drop all graphs."""
        self._graphs.clear()
        self._met.clear()
        self._reasons.clear()


def _is_traced() -> bool:
    """Whether a compiler looks on, or somebody else records."""
    import torch

    if torch.compiler.is_compiling():
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
