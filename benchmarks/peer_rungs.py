"""The peers beyond torch.compile and OpenVINO, each behind the same interface as every rung.

A peer that is not installed, that needs other hardware, or that does not know the model, is skipped
with that reason. requirements/peers.txt pins what pip installs anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from . import peer_attention, peer_caches, peer_engines
from .errors import Skip
from .peer_tools import unable
from .rungs import Opened, Rung, to_fast_dtype

if TYPE_CHECKING:
    from .peer_tools import Change
    from .workloads import Workload

_FIXED = ("onnxruntime",)
"""Peers that take the timed inputs' shapes alone."""


def _peer(name: str, summary: str, effect: str, change: Change, steps: bool = False) -> Rung:
    """A rung that puts a peer on a pipe in the faster dtype; with `steps` it needs several."""

    @contextmanager
    def opened(pipe: Any, workload: Workload) -> Iterator[Opened]:
        if steps and workload.steps is None:
            raise Skip("It reuses what earlier steps computed, and one forward has none.")
        if pipe.device.type == "cuda":
            to_fast_dtype(pipe, workload.networks_of(pipe))
        with ExitStack() as stack:
            with unable(name):
                stack.enter_context(change(pipe, workload))
            yield Opened(pipe, effect, fixed_shapes=name in _FIXED)

    return Rung(name, "peer", summary, opened)


PEERS = (
    *(_peer(*each, steps=True) for each in peer_caches.CACHES),
    _peer("tomesd", "half of the tokens merged", "approximate", peer_caches.tomesd),
    *(_peer(*each) for each in peer_attention.BACKENDS),
    *(_peer(*each) for each in peer_engines.ENGINES),
)
