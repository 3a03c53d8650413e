"""Timing a kernel: over many copies of its inputs, on the device's own clock.

A call that finds its inputs in the cache, because the last one left them there, would be timed at
the cache's speed; a model's next layer doesn't find them. So calls go round as many copies as
exceed the last-level cache, and their results are kept until the round is over, so that each is
written somewhere else.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import measure
from .kernel_cases import Inputs, Variant

PAST_THE_CACHE = 3
"""A round of copies holds so many times what the last-level cache does."""
MOST_COPIES = 64
MOST_BYTES = 4 << 30
"""What a round may hold; a case that alone takes more is larger than any cache."""
SHORTEST = 2e-3
"""Seconds of a sample on a GPU at least: CUDA events are good to half a microsecond."""
_CPU_CACHE = 32 << 20
_INDEX = Path("/sys/devices/system/cpu/cpu0/cache")


def copies_for(call_bytes: int, device: torch.device) -> int:
    """How many copies of inputs of so many bytes a call make a round."""
    wanted = math.ceil(PAST_THE_CACHE * cache_bytes(device) / max(1, call_bytes))
    return max(1, min(wanted, MOST_COPIES, MOST_BYTES // max(1, call_bytes)))


def cache_bytes(device: torch.device, index: Path = _INDEX) -> int:
    """The last-level cache: a GPU's L2, a CPU's largest; 32 MiB where the system doesn't say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [path.read_text().strip() for path in index.glob("index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20}
    found = [int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units]
    return max(found, default=_CPU_CACHE)


@dataclass
class Round:
    """A variant called once for each copy of its inputs; `launched` says by what, see `KernelRow`.

    `repeats` rounds make a sample that is long enough to time.
    """

    variant: Variant
    copies: Sequence[Inputs]
    launched: str = "host"
    repeats: int = 1
    _replay: Callable[[], None] | None = None
    _kept: list[Any] = field(default_factory=list)

    def __call__(self) -> torch.Tensor:
        """All calls, one after the other; an empty tensor, since nobody looks at the results."""
        if self._replay is not None:
            self._replay()
        else:
            self._call_all()
        return torch.empty(0)

    def _call_all(self) -> list[Any]:
        return [self.variant(**inputs) for inputs in self.copies]

    @property
    def calls(self) -> int:
        """How many calls a sample is made of."""
        return len(self.copies) * self.repeats

    def settle(self) -> None:
        """Warm up; on a GPU, capture the round in a graph where it can be, and count repeats."""
        self()
        if _device_of(self.copies[0]).type == "cuda":
            self._capture()
            seconds = _event_seconds(self)
            self.repeats = max(1, math.ceil(SHORTEST / max(seconds, 1e-7)))

    def _capture(self) -> None:
        """Replaying a graph leaves the host's launches out, which no kernel is the faster for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._call_all()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._kept = self._call_all()
        except RuntimeError:
            torch.cuda.synchronize()
            return
        self._replay, self.launched = graph.replay, "graph"

    def clock(self, call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
        """The seconds of one call of the variant, as the mean over a sample."""
        if _device_of(self.copies[0]).type != "cuda":
            output, seconds = measure.timed(call)
            return output, seconds / self.calls
        return torch.empty(0), _event_seconds(call, self.repeats) / self.calls


def _event_seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """By CUDA events; an untimed call before them keeps the device busy meanwhile."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    call()
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def host_seconds(variant: Variant, inputs: Inputs, calls: int = 20) -> float:
    """What one call takes the host until the device has been told, with nothing before it."""
    taken = []
    for _ in range(calls):
        measure.synchronise()
        start = time.perf_counter()
        variant(**inputs)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def extra_memory(variant: Variant, inputs: Inputs) -> int:
    """The bytes of a GPU that one call needs beside its inputs, its result included."""
    device = _device_of(inputs)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    variant(**inputs)
    return int(torch.cuda.max_memory_allocated(device) - before)


def _device_of(inputs: Inputs) -> torch.device:
    return next(each.device for each in inputs.values() if isinstance(each, torch.Tensor))


@contextmanager
def little_garbage() -> Iterator[None]:
    """What lives now is left out of collections, which then take no time between the samples."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
