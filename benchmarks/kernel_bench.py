"""One case of the kernels' benchmark: each variant held against the truth, then timed in turns."""

from __future__ import annotations

import gc
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from sdaccel import device as machine
from sdaccel.kernels.cost import size
from sdaccel.kernels.operator import operators

from . import measure
from .errors import BenchmarkError, Skip
from .kernel_cases import Case, Draw, Family, Inputs, Variant
from .kernel_rows import INDUCTOR, KERNEL, STOCK, KernelRow, Target, judge
from .kernel_timing import Round, copies_for, extra_memory, host_seconds, little_garbage
from .samples import median, worst_theft

PEER_RATIO = 2.0
"""In 16 bit a rival may be so many times as far from the truth as stock: the usual bound."""
LOWER_PRECISION_ERROR = 0.05
"""Where fewer bits are used on purpose: beyond this the result is not that of the op."""


@dataclass(frozen=True)
class Options:
    """What to measure: where, in which dtype, timed rounds, which variants (None: all), how large.

    `backend` is what compiles stock's lines.
    """

    device: torch.device
    dtype: torch.dtype
    rounds: int = 10
    variants: tuple[str, ...] | None = None
    quick: bool = False
    backend: str = "inductor"

    def wants(self, variant: str) -> bool:
        """Whether a variant is asked for; the kernel and stock always are."""
        return self.variants is None or variant in (KERNEL, STOCK, *self.variants)


@dataclass
class Contender:
    """A variant of a case: its row, how it is opened, and how far from the truth it may be.

    `ratio` is to stock's own error in 16 bit; None: it is only reported.
    """

    row: KernelRow
    open: Callable[[Inputs], Variant]
    ratio: float | None
    variant: Variant | None = None
    setup: float = 0.0

    def call(self, inputs: Inputs) -> list[torch.Tensor]:
        """Its outputs, one or several."""
        assert self.variant is not None
        return _tensors(self.variant(**inputs))


def _silent(news: str) -> None:
    """Nobody listens."""


@dataclass
class Bench:
    """One case of one family; `tell` hears what is going on."""

    family: Family
    case: Case
    options: Options
    tell: Callable[[str], None] = _silent
    contenders: list[Contender] = field(default_factory=list)

    def run(self) -> list[KernelRow]:
        """The case's rows, one a variant, the kernel's first."""
        self.contenders = list(self._enter())
        rows = [each.row for each in self.contenders]
        with torch.inference_mode(), measure.cold_cache(), warnings.catch_warnings():
            # what a backend warns of, its row says
            warnings.simplefilter("ignore")
            with _failures(rows):
                self._check()
            with _failures([row for row in rows if row.status == "ok"]):
                self._time()
        judge(rows, self._targets())
        self._release()
        return rows

    def _release(self) -> None:
        """The next case gets the memory: a graph keeps that of its outputs as long as it lives."""
        self.contenders = []
        torch._dynamo.reset()
        gc.collect()
        if self.options.device.type == "cuda":
            torch.cuda.empty_cache()

    def _targets(self) -> Sequence[Target]:
        """On a CPU the op is plain torch, which shall be no slower than stock."""
        if self.options.device.type == "cpu":
            return (Target(1.0, (STOCK,)),)
        return self.family.targets(self.case)

    def _enter(self) -> Iterator[Contender]:
        family = self.family
        ours = self._row(KERNEL, KERNEL, family.effect)
        yield Contender(ours, lambda _: family.kernel_variant(), measure.EXACT_RATIO)
        yield Contender(self._row(STOCK, STOCK), lambda _: self.case.stock, None)
        if self.options.wants(INDUCTOR):
            yield Contender(self._row(INDUCTOR, INDUCTOR), self._compiled, PEER_RATIO)
        for name, rival in family.rivals().items():
            if self.options.wants(name):
                row = self._row(name, rival.kind, rival.effect)
                yield Contender(row, rival.open, PEER_RATIO)

    def _row(self, variant: str, kind: str, effect: str = "exact") -> KernelRow:
        options, dtype = self.options, str(self.options.dtype).removeprefix("torch.")
        row = KernelRow(self.family.op, variant, kind, effect, "call", options.quick, dtype=dtype)
        row.model, row.case, row.bound = self.case.model, self.case.what, self.family.bound
        row.settings = {**self.case.sizes_for(options.quick)}
        row.copy_ceiling = machine.copy_ceiling(options.device)
        row.matmul_ceiling = machine.matmul_ceiling(options.device, options.dtype)
        return row

    def _compiled(self, inputs: Inputs) -> Variant:
        backend = self.options.backend
        compiled: Variant = torch.compile(
            self.case.stock, fullgraph=True, dynamic=False, backend=backend
        )
        return compiled

    def _inputs(self, seed: int = 0) -> Inputs:
        """The inputs of a seed, anew each time: an op may write into them."""
        draw = Draw(self.options.device, self.options.dtype, seed)
        sizes = self.case.sizes_for(self.options.quick)
        return self.family.inputs(draw, **sizes, **self.case.options)

    def _check(self) -> None:
        """Each variant's distance from the truth; stock's goes first, since limits hang on it."""
        truth = self._truth()
        stock = next(each for each in self.contenders if each.row.kind == STOCK)
        for one in sorted(self.contenders, key=lambda each: each is not stock):
            self.tell(f"checking {one.row.rung}")
            with _failures([one.row]):
                self._open(one)
                with _watched(one.row, self.options.device):
                    outputs = one.call(self._inputs())
                _judge_error(one, _distance(outputs, truth), stock.row.error)

    def _truth(self) -> list[torch.Tensor]:
        """What is right: in fp32 or more, from the same values."""
        exact = {
            name: each.float() if isinstance(each, torch.Tensor) and _is_low(each) else each
            for name, each in self._inputs().items()
        }
        return _tensors((self.family.truth or self.case.stock)(**exact))

    def _open(self, one: Contender) -> None:
        """Open and call once, which compiles; `setup` is what that took."""
        inputs, start = self._inputs(), time.perf_counter()
        one.variant = one.open(inputs)
        one.call(inputs)
        measure.synchronise()
        one.setup = time.perf_counter() - start

    def _time(self) -> None:
        """Rounds of all that are right, in turns; stock's samples stand beside each."""
        ready = [each for each in self.contenders if each.row.status == "ok"]
        if not ready:
            return
        copies = self._copies([each.row for each in ready])
        trials: dict[str, measure.Trial] = {}
        for one in ready:
            with _failures([one.row]):
                trials[one.row.rung] = self._trial(one, copies)
        with little_garbage():
            taken = measure.interleave(
                trials, self.options.rounds, lambda name: self.tell(f"timing {name}")
            )
        stock = taken.get(STOCK, [])
        for one in ready:
            if one.row.rung in taken:
                row, samples = one.row, taken[one.row.rung]
                row.seconds = [each.seconds for each in samples]
                row.baseline_seconds = [each.seconds for each in stock]
                row.stolen = worst_theft([*samples, *stock])
                row.setup_seconds = max(0.0, one.setup - median(row.seconds))

    def _copies(self, rows: Sequence[KernelRow]) -> list[Inputs]:
        """Inputs for a round, and the op's cost, written into the rows."""
        first = self._inputs()
        amount = size(*(each for each in first.values() if isinstance(each, torch.Tensor)))
        with suppress(Skip):  # an op that isn't there has no cost, and the others no rate
            cost = self.family.cost(self.family.load(), **first)
            amount = cost.bytes
            for row in rows:
                row.bytes, row.flops = cost.bytes, float(cost.flops)
        number = copies_for(amount, self.options.device)
        number = min(number, 2) if self.options.quick else number
        return [first, *(self._inputs(seed) for seed in range(1, number))]

    def _trial(self, one: Contender, copies: Sequence[Inputs]) -> measure.Trial:
        assert one.variant is not None
        if self.options.device.type == "cuda":
            one.row.peak_memory = extra_memory(one.variant, copies[0])
            one.row.host_seconds = host_seconds(one.variant, copies[0])
        turn = Round(one.variant, copies)
        turn.settle()
        one.row.launched = turn.launched
        return measure.Trial(turn, clock=turn.clock)


@contextmanager
def _failures(rows: Sequence[KernelRow]) -> Iterator[None]:
    """A variant that skips or fails says so in its row, and the rest goes on."""
    try:
        yield
    except (Skip, BenchmarkError) as reason:
        for row in rows:
            row.status = "skipped" if isinstance(reason, Skip) else "failed"
            row.reason = str(reason)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        for row in rows:
            row.status, row.reason = "failed", f"{type(error).__name__}: {text}"


_ON_A_CPU = {
    "kernel": "in Triton's interpreter",
    "native": "machine code of its own",
    "reference": "the reference in plain torch",
}


@contextmanager
def _watched(row: KernelRow, device: torch.device) -> Iterator[None]:
    """Raises where our kernel should have run within, and its reference did.

    A `BenchmarkError` where it did not compile, a `Skip` where it has no place here.
    """
    if row.kind != KERNEL:
        yield
        return
    op = operators()[row.workload]
    runs, reasons = Counter(op.runs), Counter(op.reasons)
    yield
    if device.type == "cpu":
        row.notes.append(f"on a CPU: {', '.join(_ON_A_CPU[who] for who in op.runs - runs)}")
    elif op.runs["reference"] > runs["reference"]:
        reason = next(iter(op.reasons - reasons), "it is not known why")
        kind = BenchmarkError if reason in op.failures() else Skip
        raise kind(f"The kernel did not run: {reason}.")


def _judge_error(one: Contender, error: float, stock: float | None) -> None:
    """Write the error and its limit into the row; beyond it the row is wrong."""
    row = one.row
    row.error = error if error < float("inf") else None
    if row.effect != "exact":
        row.error_limit = LOWER_PRECISION_ERROR
    elif one.ratio is not None:
        row.error_limit = max(measure.EXACT_ERROR, one.ratio * (stock or 0.0))
    if row.error is None:
        row.status, row.reason = "wrong", "The output has NaN or Inf in it, or another shape."
    elif row.error_limit is not None and row.error > row.error_limit:
        row.status = "wrong"
        row.reason = f"The error is {error:.1e}, above the {row.error_limit:.1e} it may have."


def _distance(outputs: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]) -> float:
    """The largest relative error of the outputs; infinite where their number differs."""
    if len(outputs) != len(truth):
        return float("inf")
    pairs = zip(outputs, truth, strict=True)
    return max(measure.relative_error(output, right) for output, right in pairs)


def _tensors(output: Any) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else list(output)


def _is_low(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < 4
