"""Candidates for an attention that take as long as they say: races without a clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from sdaccel.passes import attention_candidates, attention_router
from sdaccel.passes.attention_candidates import Candidate
from sdaccel.passes.attention_operator import stock

STOCK_SECONDS = 1.0


class Race:
    """In the place of the real candidates and the real clock; stock takes a second a call."""

    def __init__(self, monkeypatch: Any) -> None:
        self.candidates: list[Candidate] = []
        self.calls: Counter[str] = Counter()
        self.timed = 0
        self._spent = 0.0
        monkeypatch.setattr(attention_candidates, "candidates", lambda: tuple(self.candidates))
        monkeypatch.setattr(attention_router, "seconds_a_call", self.seconds_a_call)

    def enter(
        self, name: str, *seconds: float, compute: Callable[..., Any] = stock, **more: Any
    ) -> None:
        """Add a candidate that takes these seconds, call by call, the last of them from then on."""

        def timed(*arguments: Any) -> Any:
            self._spent += seconds[min(self.calls[name], len(seconds) - 1)]
            self.calls[name] += 1
            return compute(*arguments)

        fits = more.pop("fits", lambda _problem: True)
        self.candidates.append(Candidate(name, timed, fits, **more))

    def seconds_a_call(self, run: Callable[[], Any], calls: int, device: torch.device) -> float:
        """What the candidate that runs says; stock says nothing."""
        self.timed += 1
        before, self._spent = self._spent, 0.0
        run()
        spent, self._spent = self._spent, before
        return spent or STOCK_SECONDS
