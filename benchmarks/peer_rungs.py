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
from .rungs import Narrow, Opened, Rung
from .settings import parse

if TYPE_CHECKING:
    from .peer_tools import Change
    from .workloads import Workload

_FIXED = ("onnxruntime",)
"""Peers that take the timed inputs' shapes alone."""


def _peer(name: str, summary: str, effect: str, change: Change, steps: bool = False) -> Rung:
    """A rung that puts a peer on a pipe; with `steps` it needs several.

    An approximate one is a control: it begins from what `stock-16bit` computes in. On a CPU the
    others export and quantize what is in fp32.
    """

    @contextmanager
    def opened(pipe: Any, workload: Workload) -> Iterator[Opened]:
        if steps and workload.steps is None:
            raise Skip("It reuses what earlier steps computed, and one forward has none.")
        with ExitStack() as stack:
            with unable(name):
                stack.enter_context(change(pipe, workload))
            yield Opened(pipe, effect, fixed_shapes=name in _FIXED)

    narrow: Narrow = "anywhere" if effect == "approximate" else "on a GPU"
    return Rung(name, "peer", summary, opened, narrow)


def _of(family: peer_caches.Family, name: str, value: float) -> Rung:
    change = family.change(value)
    return _peer(name, family.said(value), "approximate", change, family.steps)


def with_setting(name: str) -> Rung | None:
    """The peer of a name such as "deepcache-5"; None for a name that begins with no family's.

    Raises `BenchmarkError` for a setting that the peer does not take.
    """
    families = {each.name: each for each in (*peer_caches.FAMILIES, peer_caches.CACHE_DIT)}
    named = parse(name, {key: each.setting for key, each in families.items()})
    return None if named is None else _of(families[named.family], name, named.value)


PEERS = (
    *(_of(each, each.name, each.usual) for each in peer_caches.FAMILIES),
    *(_peer(*each, steps=True) for each in peer_caches.CACHES),
    *(_peer(*each) for each in peer_attention.BACKENDS),
    *(_peer(*each) for each in peer_engines.ENGINES),
)
