"""What records the work that a function launches, to launch it again at one blow.

The contract: what is recorded reads and writes the very memory that its tensors had when it was
recorded, and runs none of the Python in between. So whoever records keeps the inputs in memory that
stays, and takes results away before the next replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Recorded:
    """What a function returned when it was recorded, whose tensors `replay` writes anew."""

    result: Any
    replay: Callable[[], None]


class Recorder(Protocol):
    """Records work on one device."""

    def capture(self, run: Callable[[], Any]) -> Recorded:
        """Run a function to warm it up, and once more to record it.

        Raises what `run` raises, and what the device does not allow while it records, such as
        waiting for a value.
        """


def recorder_for(device: torch.device) -> Recorder | None:
    """A recorder for a device; None where there is none for its type."""
    return CudaRecorder(device) if device.type == "cuda" else None


@dataclass
class CudaRecorder:
    """CUDA graphs (HIP graphs in a ROCm build) that share a pool of memory.

    They may share it in any order of replays: the results of each stay referenced for as long as it
    exists, and what else is in the pool is dead when a replay on the same stream is over.
    """

    device: torch.device
    _pool: Any = field(default=None, init=False)
    _stream: Any = field(default=None, init=False)

    def capture(self, run: Callable[[], Any]) -> Recorded:
        import torch

        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            if self._stream is None:
                self._stream = torch.cuda.Stream()
            try:
                self._warm_up(run)
                return self._record(run)
            except BaseException:
                # torch leaves the stream current, and may go on allocating in the pool
                self._pool = None
                torch.cuda.set_stream(current)
                raise

    def _warm_up(self, run: Callable[[], Any]) -> None:
        """Let libraries take their workspaces and choose their algorithms on the side stream."""
        import torch

        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            run()
        current.wait_stream(self._stream)

    def _record(self, run: Callable[[], Any]) -> Recorded:
        import torch

        graph = torch.cuda.CUDAGraph()
        # other threads may allocate and copy meanwhile
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            result = run()
        return Recorded(result, graph.replay)
