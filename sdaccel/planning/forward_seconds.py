"""How long a denoiser's full and shallow forwards take, while step_cache draws with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any


class ForwardSeconds:
    """The times of forwards in seconds, device included; `found[True]` those of shallow ones."""

    def __init__(self) -> None:
        self.found: dict[bool, list[float]] = {True: [], False: []}
        self._start = 0.0
        self._shallow = False

    @contextmanager
    def watching(self, model: Any, cache: Any) -> Iterator[None]:
        """Inside, the forwards of a denoiser and its cache are timed."""

        def begin(*_: Any) -> None:
            call = cache.current
            self._shallow = call is not None and call.shallow
            _synchronize(model)
            self._start = time.perf_counter()

        def end(*_: Any) -> None:
            _synchronize(model)
            self.found[self._shallow].append(time.perf_counter() - self._start)

        handles = [
            model.register_forward_pre_hook(begin),
            model.register_forward_hook(end),
        ]
        try:
            yield
        finally:
            for each in handles:
                each.remove()

    @property
    def shallow(self) -> float:
        """The median of the shallow ones as a share of that of the full ones; 1.0 without any."""
        if not all(self.found.values()):
            return 1.0
        return min(1.0, median(self.found[True]) / median(self.found[False]))


def _synchronize(model: Any) -> None:
    import torch

    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
