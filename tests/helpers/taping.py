"""What a CUDA graph does, on a CPU, and as unforgiving: for tests of what is built around graphs.

The operations of a function are taped with the very tensors they read and wrote. A replay runs
those again on the same memory, and no Python in between. Everything that an operation made is NaN
until it is replayed, and NaN again when another tape of the same recorder is: they share their
memory, as graphs of one pool do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sdaccel.passes.graph_recorder import Recorded

_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_unique2", "masked_select")


@dataclass
class Operation:
    """One call of an operator; `fresh` are those of its results that it made the memory of."""

    operator: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Any]
    fresh: list[bool]

    def run(self) -> None:
        """Do it again, into the same memory."""
        found = _pytree.tree_leaves(self.operator(*self.args, **self.kwargs))
        for new, old, fresh in zip(found, self.results, self.fresh, strict=True):
            if fresh:
                old.copy_(new)


class Taping(TorchDispatchMode):
    """Tapes what is run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Dynamo runs compiled code inside, as it does while a stream is captured."""
        return True

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if operator.overloadpacket.__name__ in _WAITS:
            raise RuntimeError("operation not permitted when stream is capturing")
        given = {_memory(each) for each in _tensors((args, kwargs))}
        result = operator(*args, **kwargs)
        leaves = _pytree.tree_leaves(result)
        fresh = [isinstance(e, torch.Tensor) and _memory(e) not in given for e in leaves]
        self.operations.append(Operation(operator, args, kwargs, leaves, fresh))
        return result


@dataclass
class TapeRecorder:
    """A `Recorder` for a CPU; `runs` counts how often a function was run for it."""

    runs: int = 0
    tapes: list[list[Operation]] = field(default_factory=list)

    def capture(self, run: Callable[[], Any]) -> Recorded:
        self.runs += 2
        run()
        with Taping() as tape:
            result = run()
        self.tapes.append(tape.operations)
        self._scramble()
        return Recorded(result, lambda: self._replay(tape.operations))

    def _replay(self, operations: list[Operation]) -> None:
        with torch.no_grad():
            self._scramble()
            for each in operations:
                each.run()

    def _scramble(self) -> None:
        """Nothing that any tape has made is there any more."""
        for operation in (each for tape in self.tapes for each in tape):
            for result, fresh in zip(operation.results, operation.fresh, strict=True):
                if fresh and result.is_floating_point():
                    result.fill_(float("nan"))


@contextmanager
def taped() -> Iterator[TapeRecorder]:
    """Inside, `cuda_graph` records on a CPU."""
    recorder = TapeRecorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdaccel.passes.graph_recorder.recorder_for", lambda _: recorder)
        yield recorder


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(value: Any) -> list[torch.Tensor]:
    return [each for each in _pytree.tree_leaves(value) if isinstance(each, torch.Tensor)]
