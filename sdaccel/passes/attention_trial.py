"""One trial: which of several ways is right, and which is fastest, on the tensors at hand."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from .attention_candidates import Candidate, added
from .attention_choices import STOCK, Verdict

Run = Callable[[], torch.Tensor]
Timer = Callable[[Run, int, torch.device], float]
WRONG = "error"
"""With this word begins the reason to drop what is wrong, rather than unable."""
MARGIN = 1.03
"""A winner is this many times as fast as stock, or stock stays."""
_STRICT_FP32 = 1e-6
"""In fp32 a whole forward may differ by 1e-5; it has dozens of attentions, so each gets a tenth."""
_NO_WORSE = 1.25
_LOWER_PRECISION = 0.05
_ROUNDS, _FEWER_ROUNDS = 5, 3
_LONG = 0.3  # seconds a call, from which on fewer rounds have to do
_HOPELESS = 1.5


def seconds_a_call(run: Run, calls: int, device: torch.device) -> float:
    """The mean over `calls` calls in a row: by events on a GPU, by the clock on a CPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    with torch.cuda.device(device):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(calls):
            run()
        last.record()
        last.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / calls


@dataclass
class Trial:
    """An attention's arguments: query (B, H, S, D), key and value (B, Hk, T, .), and the options.

    `stock` computes it as it would be without this package.
    """

    stock: Callable[..., torch.Tensor]
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    causal: bool
    scale: float | None
    dropped: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def verdict(self, candidates: Mapping[str, Candidate], timer: Timer) -> Verdict | None:
        """Correct first, then the fastest; None where the truth itself isn't finite."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a candidate has to say is in `dropped`
            right = self._right(candidates)
            if right is None:
                return None
            times = self._times(right, timer)
        winner, speedup = STOCK, 1.0
        for name, ratios in times.items():
            middle = statistics.median(ratios)
            if middle >= MARGIN and middle > speedup and min(ratios) >= 1:
                winner, speedup = name, middle
        errors = {name: self.errors[name] for name in dict.fromkeys((STOCK, winner))}
        return Verdict(winner, speedup, dict(self.dropped), errors)

    def _run(self, compute: Callable[..., torch.Tensor]) -> torch.Tensor:
        """With the heads side by side, as the projection after it reads them."""
        found = compute(self.query, self.key, self.value, self.mask, self.causal, self.scale)
        return found.transpose(1, 2).contiguous()

    def _right(self, candidates: Mapping[str, Candidate]) -> dict[str, Candidate] | None:
        """Those whose result is no further from the truth than exactness allows."""
        rows = self._rows()
        truth = self._truth(rows)
        stock = self._run(self.stock)
        if not bool(truth.isfinite().all()) or not bool(stock.isfinite().all()):
            return None
        self.errors[STOCK] = distance(stock[:, rows], truth)
        right = {}
        for name, candidate in candidates.items():
            reason = self._flaw(name, candidate, rows, truth, stock)
            if reason is None:
                right[name] = candidate
            else:
                self.dropped[name] = reason
        return right

    def _flaw(
        self,
        name: str,
        candidate: Candidate,
        rows: torch.Tensor,
        truth: torch.Tensor,
        stock: torch.Tensor,
    ) -> str | None:
        """Why a candidate's result can't be used, or None."""
        fallbacks = candidate.fallbacks()
        try:
            found = self._run(candidate.compute)
        except Exception as error:  # other people's kernels refuse in every way there is
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
        if candidate.fallbacks() != fallbacks:
            return "its kernel did not run"
        if found.shape != stock.shape or found.dtype != stock.dtype:
            return f"gave {found.dtype} {list(found.shape)}"
        off = self.errors[name] = distance(found[:, rows], truth)
        bound = self._bound(candidate)
        # the rows that the truth is known of are few: the others are held to stock's
        elsewhere = distance(found, stock)
        if not (off <= bound and elsewhere <= 2 * (bound + self.errors[STOCK])):
            return f"{WRONG} {max(off, elsewhere):.1e}, stock's {self.errors[STOCK]:.1e}"
        return None

    def _bound(self, candidate: Candidate) -> float:
        if candidate.lower_precision:
            return _LOWER_PRECISION
        if self.query.dtype == torch.float32:
            return max(_STRICT_FP32, _NO_WORSE * self.errors[STOCK])
        return _NO_WORSE * self.errors[STOCK]

    def _rows(self) -> torch.Tensor:
        """Up to 64 queries, from first to last, within 64 MiB of scores in fp64."""
        batch, heads, queries, _ = self.query.shape
        fit = (64 << 20) // (8 * batch * heads * self.key.shape[2])
        count = max(1, min(64, queries, fit))
        return torch.linspace(0, queries - 1, count).round().long().to(self.query.device)

    def _truth(self, rows: torch.Tensor) -> torch.Tensor:
        """Those queries' result (B, R, H, D) in fp64."""
        query, key, value = (each.double() for each in (self.query, self.key, self.value))
        mask = self.mask
        if mask is not None:
            sizes = (*self.query.shape[:3], self.key.shape[2])
            mask = added(mask.expand(sizes)[:, :, rows], torch.float64)
        elif self.causal:
            mask = rows[:, None] >= torch.arange(self.key.shape[2], device=rows.device)
            mask = added(mask, torch.float64)
        plain = torch.ops.aten._scaled_dot_product_attention_math
        grouped = query.shape[1] != key.shape[1]
        found: torch.Tensor = plain(
            query[:, :, rows], key, value, mask, 0.0, False, scale=self.scale, enable_gqa=grouped
        )[0]
        return found.transpose(1, 2)

    def _times(self, right: Mapping[str, Candidate], timer: Timer) -> dict[str, list[float]]:
        """By name, how many times as fast as stock, round by round; what is far behind is left."""
        device = self.query.device

        def seconds(compute: Callable[..., torch.Tensor], calls: int) -> float:
            return timer(lambda: self._run(compute), calls, device)

        first = seconds(self.stock, 1)
        calls = max(1, min(50, round(5e-3 / max(first, 1e-9))))
        ratios: dict[str, list[float]] = {name: [] for name in right}
        for _ in range(_ROUNDS if first < _LONG else _FEWER_ROUNDS):
            stock = seconds(self.stock, calls)
            for name in list(ratios):
                taken = seconds(right[name].compute, calls)
                ratios[name].append(stock / taken)
                if taken > _HOPELESS * stock:
                    del ratios[name]
            if not ratios:
                break
        return ratios


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative L2 of (B, S, H, D), 1,024 tokens at a time in fp64; NaN where one isn't finite."""
    off = size = torch.zeros((), dtype=torch.float64, device=truth.device)
    for part, true in zip(found.split(1024, dim=1), truth.split(1024, dim=1), strict=True):
        off = off + (part.double() - true.double()).square().sum()
        size = size + true.double().square().sum()
    return float((off / size.clamp_min(1e-300)).sqrt())
