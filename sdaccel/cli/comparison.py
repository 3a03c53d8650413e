"""Stock and accelerated from the same noise: their times, and how far the drawings differ."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import quality
from ..accelerate import accelerate
from ..accelerate import report as report_on
from ..errors import InputError, MetricError
from ..report import Report
from .drawing import draw, warm_up

if TYPE_CHECKING:
    from ..plan import Plan
    from .drawing import Drawing
    from .request import Request
    from .sheet import Row
    from .terminal import Terminal

_ROUNDS = 3
_SECONDS = 30.0


@dataclass(frozen=True)
class Comparison:
    """The last round's drawings, the seconds of all rounds, and what the acceleration cost once."""

    plan: str
    stock: list[Drawing]
    accelerated: list[Drawing]
    stock_seconds: list[float]
    accelerated_seconds: list[float]
    set_up_seconds: float
    report: Report

    @property
    def speed_up(self) -> float:
        """Stock's median time over the accelerated one's, compiling left out."""
        return statistics.median(self.stock_seconds) / statistics.median(self.accelerated_seconds)

    @property
    def break_even(self) -> int | None:
        """With which drawing of this kind the set-up is won back; None where it never is."""
        saved = statistics.median(self.stock_seconds) - statistics.median(self.accelerated_seconds)
        return max(1, math.ceil(self.set_up_seconds / saved)) if saved > 0 else None

    def qualities(self) -> list[tuple[float, float | None]]:
        """PSNR in dB and SSIM of each pair; no SSIM below 11 pixels or without torchmetrics."""
        return [_quality(*pair) for pair in zip(self.stock, self.accelerated, strict=True)]

    def rows(self) -> list[Row[Any]]:
        """What the sheet shows, a row for each pair."""
        from .sheet import Row

        stock, fast = (
            statistics.median(each) for each in (self.stock_seconds, self.accelerated_seconds)
        )
        many = f" for {len(self.stock)}" if len(self.stock) > 1 else ""
        return [
            Row(
                pictures=pair,
                captions=(
                    f"stock diffusers\n{stock:.2f} s{many}",
                    f"plan {self.plan}\n{fast:.2f} s{many}, {self.speed_up:.2f}x as fast",
                ),
                quality=_words(*measured),
            )
            for pair, measured in zip(
                zip(self.stock, self.accelerated, strict=True), self.qualities(), strict=True
            )
        ]

    def sentences(self) -> list[str]:
        """The comparison in words."""
        rounds = len(self.stock_seconds)
        stock, fast = (
            statistics.median(each) for each in (self.stock_seconds, self.accelerated_seconds)
        )
        worth = (
            f"won back with drawing {self.break_even}"
            if self.break_even is not None
            else "not won back: stock is as fast here"
        )
        return [
            f"stock {stock:.2f} s, plan {self.plan} {fast:.2f} s: {self.speed_up:.2f}x as fast "
            f"(median of {rounds} interleaved round{'s' if rounds > 1 else ''})",
            f"accelerating and compiling took {self.set_up_seconds:.1f} s once, {worth}",
            *(f"the {self._what}: {_words(*measured)}" for measured in self.qualities()),
        ]

    @property
    def _what(self) -> str:
        return "clips" if isinstance(self.stock[0], list) else "pictures"

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `psnr` is null for identical drawings, where it is infinite."""
        return {
            "plan": self.plan,
            "stock_seconds": [round(each, 4) for each in self.stock_seconds],
            "accelerated_seconds": [round(each, 4) for each in self.accelerated_seconds],
            "set_up_seconds": round(self.set_up_seconds, 4),
            "speed_up": round(self.speed_up, 4),
            "break_even_drawings": self.break_even,
            "quality": [
                {
                    "identical": math.isinf(psnr),
                    "psnr": None if math.isinf(psnr) else psnr,
                    "ssim": ssim,
                }
                for psnr, ssim in self.qualities()
            ],
        }


def check_rounds(rounds: int | None) -> int | None:
    """The rounds asked for; raises `InputError` for fewer than one."""
    if rounds is not None and rounds < 1:
        raise InputError(f"rounds must be a whole number of at least 1, not {rounds}.")
    return rounds


def compare(
    stock: Any,
    pipe: Any,
    request: Request,
    plan: Plan,
    rounds: int | None,
    strict: bool,
    terminal: Terminal,
) -> Comparison:
    """Accelerate `pipe`, warm both up, then let them take turns.

    Without `rounds`, three, or as many as fit in half a minute. A pass that is process-wide, such
    as the allocator, helps stock too here, so the speed-up errs on the low side.
    """
    with terminal.step("warming up stock"):
        stock_first = warm_up(stock, request)
    with terminal.step(f"accelerating with plan {plan}, compiling included"):
        start = time.perf_counter()
        accelerate(pipe, plan, strict=strict)
        warm_up(pipe, request)
        set_up = time.perf_counter() - start - stock_first
    times: tuple[list[float], list[float]] = ([], [])
    while not _enough(times, rounds):
        label = f"round {len(times[0]) + 1}"
        images = []
        for name, each, seconds in (("stock", stock, times[0]), (str(plan), pipe, times[1])):
            drawn, took = draw(each, request, f"{label}, {name}")
            images.append(drawn)
            seconds.append(took)
    report = report_on(pipe)
    return Comparison(str(plan), images[0], images[1], times[0], times[1], max(0.0, set_up), report)


def _enough(times: tuple[list[float], list[float]], rounds: int | None) -> bool:
    done = len(times[0])
    if rounds is not None:
        return done >= rounds
    spent = sum(times[0]) + sum(times[1])
    return done >= _ROUNDS or (done > 0 and spent * (done + 1) / done > _SECONDS)


def _quality(stock: Drawing, accelerated: Drawing) -> tuple[float, float | None]:
    """A clip's PSNR is that of all its pixels, its SSIM the mean of its frames'.

    Frame by frame, because a clip in float64 takes gigabytes.
    """
    import numpy

    pairs = list(zip(_frames(stock), _frames(accelerated), strict=True))
    error = float(numpy.mean([10 ** (-quality.psnr(*pair) / 10) for pair in pairs]))
    psnr = -10 * math.log10(error) if error else math.inf
    try:
        return psnr, float(numpy.mean([quality.ssim(*pair) for pair in pairs]))
    except MetricError:
        return psnr, None


def _frames(drawing: Drawing) -> list[Any]:
    import numpy

    return [numpy.asarray(each) for each in (drawing if isinstance(drawing, list) else [drawing])]


def _words(psnr: float, ssim: float | None) -> str:
    if math.isinf(psnr):
        return "identical"
    return f"PSNR {psnr:.1f} dB" + ("" if ssim is None else f", SSIM {ssim:.4f}")
