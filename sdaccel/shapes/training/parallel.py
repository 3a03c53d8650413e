"""Data-parallel training over one-thread processes.

On a CPU that is shared with other work, two processes of one thread each train four times faster
than one process of two threads (AMD Zen 3, 2 cores): OpenMP waits at every operator for its
slowest thread, processes wait for each other once a step.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn


def launch(function: Callable[..., None], workers: int, *arguments: Any) -> None:
    """Run `function(*arguments)` in `workers` processes that can average with each other."""
    if workers == 1:
        function(*arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder, 'store')}"
        spawn(_enter, (workers, meeting, function, arguments), workers)


def rank() -> int:
    """This process' number, 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes; all travel as one message."""
    if world() == 1:
        return
    together = list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in together])
    dist.all_reduce(flat)
    flat /= world()
    means = flat.split([tensor.numel() for tensor in together])
    for tensor, mean in zip(together, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


def agree(flag: bool) -> bool:
    """Whether process 0 says so: a decision that every process must take alike."""
    if world() == 1:
        return flag
    decision = torch.tensor([float(flag)])
    dist.broadcast(decision, 0)
    return bool(decision.item())


def _enter(
    index: int,
    workers: int,
    meeting: str,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    dist.init_process_group("gloo", init_method=meeting, rank=index, world_size=workers)
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()
