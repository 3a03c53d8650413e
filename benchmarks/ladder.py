"""One workload up the ladder: every rung checked against stock, then timed in turns with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import measure
from .alone import measure_alone
from .errors import BenchmarkError, Skip
from .memory import release
from .rows import Row
from .rungs import BASELINE, Opened, Rung, rung
from .samples import Sample, median, worst_theft
from .twin import twin
from .workloads import Call, Workload

if TYPE_CHECKING:
    import torch

_WARM_UP = 2
"""Untimed calls of a rung: the first compiles, the second finds everything in place."""


@dataclass(frozen=True)
class Options:
    """How much to measure: timed `rounds` a rung, `prompts` for fidelity, memory on its own or not.

    `together` keeps all rungs open at once and takes every round through all of them; else each is
    timed in turns with stock alone, which needs less memory.
    """

    rounds: int = 6
    prompts: int = 0
    memory: bool = True
    together: bool = False


def _silent(news: object) -> None:
    """Nobody listens."""


@dataclass
class Ready:
    """A rung at work, found right, and the seconds that took, warm-up calls included."""

    row: Row
    opened: Opened
    call: Call
    output: torch.Tensor
    seconds: float

    @property
    def trial(self) -> measure.Trial:
        """What to time."""
        return measure.Trial(self.call, self.opened.around)

    def finish(self, taken: dict[str, list[Sample]]) -> None:
        """Fill the row from the samples."""
        row, stock = self.row, taken[BASELINE]
        row.seconds = [each.seconds for each in taken[row.rung]]
        row.baseline_seconds = [each.seconds for each in stock]
        row.stolen = worst_theft([*taken[row.rung], *stock])
        row.setup_seconds = max(0.0, self.seconds - _WARM_UP * median(row.seconds))
        row.passes = self.opened.passes()


@dataclass
class Ladder:
    """A workload's stock pipe, its output, and what has been measured so far.

    `tell` hears what is going on, `keep` gets all rows whenever some are ready.
    """

    workload: Workload
    options: Options
    tell: Callable[[str], None] = _silent
    keep: Callable[[list[Row]], None] = _silent
    rows: list[Row] = field(default_factory=list)
    _seen: dict[object, str] = field(default_factory=dict)

    def climb(self, rungs: Sequence[Rung]) -> list[Row]:
        """Measure these rungs; stock in fp32 is always among them, and first.

        Raises `BenchmarkError` where a rung has changed what stock draws.
        """
        rungs = [each for each in rungs if each.name != BASELINE]
        self.tell(f"building {self.workload.label}")
        self._pipe = self.workload.built()
        self._call = self.workload.prepare(self._pipe)
        self._stock = self._first_row()
        alone = [[each] for each in rungs] or [[]]
        for group in [rungs] if self.options.together else alone:
            with measure.cold_cache():
                for row in self._measure(group):
                    self._measure_memory(row)
            self.keep(self.rows)
        return self.rows

    def _first_row(self) -> Row:
        """Stock's own row, and the truth that every rung is held against."""
        self.tell(f"{BASELINE}: output, FLOPs, memory")
        self._truth = self._call()
        row = self._row(rung(BASELINE))
        row.effect, row.error, row.error_limit = "exact", 0.0, 0.0
        row.flops = measure.count_flops(self._call)
        self._describe(row, Opened(self._pipe))
        self._judge_quality(row, Opened(self._pipe), self._truth)
        self._measure_memory(row)
        return row

    def _row(self, each: Rung) -> Row:
        """An empty row, which is among the rows from now on."""
        workload = self.workload
        row = Row(
            workload=workload.name,
            rung=each.name,
            kind=each.kind,
            effect="",
            unit=workload.unit,
            quick=workload.quick,
            calls_per_picture=workload.calls_per_picture,
            settings=dict(workload.settings),
            notes=[each.summary] if each.summary else [],
        )
        self.rows.append(row)
        return row

    def _measure(self, group: Sequence[Rung]) -> list[Row]:
        """Open the rungs of a group, check them, time them in turns with stock, and close them."""
        with ExitStack() as stack:
            ready = [one for one in (self._open(stack, each) for each in group) if one]
            trials = {BASELINE: measure.Trial(self._call, check=self._check_stock)}
            trials.update((one.row.rung, one.trial) for one in ready)
            if ready or not group:
                with self._failures([one.row for one in ready]):
                    taken = measure.interleave(trials, self.options.rounds, self._tick)
                    self._add_stock(taken[BASELINE])
                    for one in ready:
                        one.finish(taken)
                        self._judge_quality(one.row, one.opened, one.output)
        return [one.row for one in ready if one.row.status == "ok"]

    def _add_stock(self, taken: list[Sample]) -> None:
        row = self._stock
        row.seconds.extend(each.seconds for each in taken)
        row.stolen = max(row.stolen or 0.0, worst_theft(taken))

    def _open(self, stack: ExitStack, each: Rung) -> Ready | None:
        """A rung at work and right; None, and a row that says why, where it is not to be timed."""
        self.tell(f"{each.name}: opening, compiling, checking")
        row = self._row(each)
        with self._failures([row]), ExitStack() as own:
            start = time.perf_counter()
            opened = own.enter_context(each.open(twin(self._pipe), self.workload))
            row.effect, row.passes = opened.effect, opened.passes()
            self._describe(row, opened)
            self._refuse_repetition(each.name, opened)
            call = self.workload.prepare(opened.pipe)
            with opened.surroundings():
                outputs = [call() for _ in range(_WARM_UP)]
            measure.synchronise()
            ready = Ready(row, opened, call, outputs[-1], time.perf_counter() - start)
            row.flops = self._stock.flops
            if self._is_right(row, ready.output):
                stack.push(own.pop_all())
                return ready
        return None

    def _refuse_repetition(self, name: str, opened: Opened) -> None:
        """Raises `Skip` for a rung that does nothing, or what another has done in this run."""
        if opened.signature is None:
            return
        reasons = "; ".join(
            f"{key} {state}" for key, state in opened.passes().items() if ":" in state
        )
        because = f" ({reasons})" if reasons else ""
        if not opened.signature:
            raise Skip(f"Did nothing{because}.")
        before = self._seen.setdefault(opened.signature, name)
        if before != name:
            raise Skip(f"The same as {before} on this machine{because}.")

    def _is_right(self, row: Row, output: torch.Tensor) -> bool:
        """Write the error into the row; a wrong rung is not timed."""
        found = measure.relative_error(output, self._truth)
        stock_16bit = {one.dtype: one.error for one in self.rows if one.rung == "stock-16bit"}
        row.error = found if found < float("inf") else None
        row.error_limit = measure.error_limit(
            row.effect, row.dtype, self.workload.forwards, stock_16bit.get(row.dtype)
        )
        if row.error is None:
            row.status, row.reason = "wrong", "The output has NaN or Inf in it, or another shape."
        elif row.error_limit is not None and row.error > row.error_limit:
            row.status = "wrong"
            row.reason = (
                f"The error is {found:.1e}, above the {row.error_limit:.1e} that it may have."
            )
        return row.status == "ok"

    def _describe(self, row: Row, opened: Opened) -> None:
        """The dtype a rung computes in, and this machine's ceilings for it."""
        import torch

        from sdaccel import device

        first = next(getattr(opened.pipe, self.workload.networks[0]).parameters())
        row.dtype = opened.dtype or str(first.dtype).removeprefix("torch.")
        row.matmul_ceiling = device.matmul_ceiling(first.device, getattr(torch, row.dtype))
        row.copy_ceiling = device.copy_ceiling(first.device)

    def _judge_quality(self, row: Row, opened: Opened, output: torch.Tensor) -> None:
        """PSNR against stock for pictures that are not stock's, and prompt fidelity."""
        if self.workload.unit == "picture" and row.rung != BASELINE:
            from sdaccel.quality import psnr

            pictures = [each[0].permute(1, 2, 0).cpu().numpy() for each in (output, self._truth)]
            found = psnr(*pictures)
            row.quality.update({"psnr": found} if found < float("inf") else {})
        if not self.workload.fidelity or not self.options.prompts:
            return
        if opened.fixed_shapes:
            row.notes.append("no prompt fidelity: it draws several prompts at once")
            return
        self.tell(f"{row.rung}: prompt fidelity over {self.options.prompts} prompts")
        row.quality.update(self.workload.fidelity(opened.pipe, self.options.prompts))

    def _measure_memory(self, row: Row) -> None:
        if not self.options.memory:
            return
        self.tell(f"{row.rung}: memory, in a process of its own")
        release()
        try:
            memory = measure_alone(self.workload.name, row.rung, self.workload.quick)
        except BenchmarkError as error:
            row.notes.append(str(error))
            return
        row.setup_peak_memory, row.peak_memory = memory.setup, memory.steady

    def _check_stock(self, output: torch.Tensor) -> None:
        """Stock shares its weights with the rungs: what it draws must stay what it was."""
        if (
            measure.relative_error(output, self._truth)
            > measure.EXACT_ERROR * self.workload.forwards
        ):
            names = ", ".join(row.rung for row in self.rows[-2:])
            raise BenchmarkError(f"Stock's output changed while {names} ran: no number here holds.")

    def _tick(self, name: str) -> None:
        self.tell(f"timing {name} in turns with {BASELINE}")

    @contextmanager
    def _failures(self, rows: Sequence[Row]) -> Iterator[None]:
        """A rung that skips or fails writes so into its row, and the rest goes on."""
        try:
            yield
        except BenchmarkError:
            raise
        except Skip as reason:
            for row in rows:
                row.status = "did nothing" if str(reason).startswith("Did nothing") else "skipped"
                row.reason = str(reason)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            for row in rows:
                row.status, row.reason = "failed", f"{type(error).__name__}: {text}"
