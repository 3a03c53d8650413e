"""One workload up the ladder: every rung checked against stock, then timed in turns with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from . import controls, measure
from .canary import Canary
from .errors import BenchmarkError, Skip
from .figures import Figures
from .memory import out_of_memory, release
from .rows import Row
from .rungs import BASELINE, STAND_IN, Opened, Rung, in_16_bit, rung
from .samples import Sample, median, worst_theft
from .twin import twin
from .workloads import Call, Workload

if TYPE_CHECKING:
    import torch

_WARM_UP = 2
"""Untimed calls of a rung: the first compiles, the second finds everything in place."""


@dataclass(frozen=True)
class Options:
    """How much to measure: timed `rounds` a rung, `prompts` to judge the pictures by, the memory of
    each rung alone or not, the `stages` of a generation or not, and with `controls` how good stock
    is in the time of each approximate rung.

    `together` keeps all rungs open at once and takes every round through all of them; else each is
    timed in turns with stock alone, which needs less memory. No rung begins when `deadline` is past
    (`time.monotonic`).
    """

    rounds: int = 6
    prompts: int = 0
    memory: bool = True
    together: bool = False
    stages: bool = True
    controls: bool = True
    deadline: float = float("inf")


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

    def finish(self, taken: dict[str, list[Sample]], stock: list[Sample]) -> None:
        """Fill the row from the samples."""
        row = self.row
        row.seconds = [each.seconds for each in taken[row.rung]]
        row.baseline_seconds = [each.seconds for each in stock]
        row.stolen = worst_theft([*taken[row.rung], *stock])
        row.canary_seconds = _readings([*taken[row.rung], *stock])
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
    _plain: dict[str, tuple[Row, torch.Tensor]] = field(default_factory=dict)

    def climb(self, rungs: Sequence[Rung]) -> list[Row]:
        """Measure these rungs; stock in fp32 is always among them, and first.

        Where a GPU has no room for that, stock in 16 bit takes its place. Raises `BenchmarkError`
        where a rung has changed what stock draws.
        """
        if not (self._stand(BASELINE) or self._stand(STAND_IN)):
            self.keep(self.rows)
            return self.rows
        rungs = [each for each in rungs if each.name not in (BASELINE, self._stock.rung)]
        alone = [[each] for each in rungs] or [[]]
        for group in [rungs] if self.options.together else alone:
            self._group(group)
            if self.options.controls:
                while lacking := controls.missing(self.rows, self.workload):
                    self._group(lacking[:1])
        return self.rows

    def _group(self, group: Sequence[Rung]) -> None:
        """Measure rungs that are open at once, in what time is left, and keep their rows."""
        if time.monotonic() > self.options.deadline:
            for each in group:
                row = self._row(each)
                row.status, row.reason = "skipped", "The time that was given was used up."
        else:
            with measure.cold_cache():
                for row in self._measure(group):
                    self._measure_memory(row)
        self.keep(self.rows)

    def _stand(self, name: str) -> bool:
        """Build stock, and fill its own row; False, and so says the row, where it has no room."""
        self.tell(f"building {self.workload.label}")
        row = self._stock = self._row(rung(name))
        with self._failures([row], fatal=True):
            whole = name == BASELINE
            self._pipe = self.workload.built() if whole else in_16_bit(self.workload)
            self._figures = Figures(self.workload, self.options.prompts, self.tell)
            self._call = self.workload.prepare(self._pipe)
            self.tell(f"{name}: output, FLOPs, memory")
            self._truth = self._call()
            self._name_the_unit(row)
            self._canary = Canary(self._truth.device)
            row.effect = "exact" if whole else "lower precision"
            row.error = row.error_limit = 0.0 if whole else None
            row.flops = measure.count_flops(self._call)
            self._describe(row)
            self._plain[row.dtype] = (row, self._truth)
        if row.status == "ok":
            self._measure_memory(row)
        return row.status == "ok"

    def _name_the_unit(self, row: Row) -> None:
        """A generation that draws frames is of a clip, which may not be known before."""
        if self.workload.steps is not None and self._truth.ndim == 5:
            self.workload = replace(self.workload, unit="clip")
            row.unit = self.workload.unit

    def _describe(self, row: Row) -> None:
        opened = Opened(self._pipe)
        self._figures.describe(row, opened)
        if self.options.stages:
            self._figures.stages(row, opened, self._call)
        self._figures.quality(row, opened, self._truth, self._truth)

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
        rows: list[Row] = []
        with self._failures(rows), ExitStack() as stack:
            ready = [one for one in (self._open(stack, each) for each in group) if one]
            rows += [one.row for one in ready]
            if ready or not group:
                self._time(ready)
        return [row for row in rows if row.status == "ok"]

    def _time(self, ready: Sequence[Ready]) -> None:
        """Take the samples of open rungs and of stock, and fill their rows."""
        stock = self._stock.rung
        trials = {stock: measure.Trial(self._call, check=self._check_stock)}
        trials.update((one.row.rung, one.trial) for one in ready)
        with self._failures([one.row for one in ready] or [self._stock]):
            taken = measure.interleave(trials, self.options.rounds, self._tick, self._canary)
            self._add_stock(taken[stock])
        for one in ready:
            if one.row.status == "ok":
                with self._failures([one.row]):
                    self._finish(one, taken)

    def _finish(self, one: Ready, taken: dict[str, list[Sample]]) -> None:
        one.finish(taken, taken[self._stock.rung])
        if one.row.kind == "stock":
            self._plain[one.row.dtype] = (one.row, one.output)
        _refuse_idleness(one, *self._plain.get(one.row.dtype, (None, None)))
        if self.options.stages:
            self._figures.stages(one.row, one.opened, one.call)
        self._figures.quality(one.row, one.opened, one.output, self._truth)

    def _add_stock(self, taken: list[Sample]) -> None:
        row = self._stock
        row.seconds.extend(each.seconds for each in taken)
        row.stolen = max(row.stolen or 0.0, worst_theft(taken))
        row.canary_seconds.extend(_readings(taken))

    def _open(self, stack: ExitStack, each: Rung) -> Ready | None:
        """A rung at work and right; None, and a row that says why, where it is not to be timed."""
        self.tell(f"{each.name}: opening, compiling, checking")
        row = self._row(each)
        with self._failures([row]), ExitStack() as own:
            start = time.perf_counter()
            opened = own.enter_context(each.open(twin(self._pipe), self.workload))
            row.effect, row.passes = opened.effect, opened.passes()
            self._figures.describe(row, opened)
            self._refuse_repetition(each.name, opened)
            call = (opened.workload or self.workload).prepare(opened.pipe)
            with opened.surroundings():
                outputs = [call() for _ in range(_WARM_UP)]
            measure.synchronise()
            seconds = time.perf_counter() - start + opened.spent
            ready = Ready(row, opened, call, outputs[-1], seconds)
            row.flops = None if opened.workload else self._stock.flops
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

    def _measure_memory(self, row: Row) -> None:
        if self.options.memory:
            self._figures.memory(row)

    def _check_stock(self, output: torch.Tensor) -> None:
        """Stock shares its weights with the rungs: what it draws must stay what it was."""
        if (
            measure.relative_error(output, self._truth)
            > measure.EXACT_ERROR * self.workload.forwards
        ):
            names = ", ".join(row.rung for row in self.rows[-2:])
            raise BenchmarkError(f"Stock's output changed while {names} ran: no number here holds.")

    def _tick(self, name: str) -> None:
        self.tell(f"timing {name} in turns with {self._stock.rung}")

    @contextmanager
    def _failures(self, rows: Sequence[Row], fatal: bool = False) -> Iterator[None]:
        """A rung that skips or fails writes so into its row, and the rest goes on.

        With `fatal` all but a lack of memory goes up.
        """
        failed = True
        try:
            yield
            failed = False
        except BenchmarkError:
            raise
        except Skip as reason:
            for row in rows:
                row.status = "did nothing" if str(reason).startswith("Did nothing") else "skipped"
                row.reason = str(reason)
        except Exception as error:
            lacking = out_of_memory(error)
            if fatal and not lacking:
                raise
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            for row in rows:
                row.status, row.reason = "out of memory" if lacking else "failed", text
        if failed:
            release()


def _readings(taken: Sequence[Sample]) -> list[float]:
    """The canary's readings among these samples, each once."""
    return list(dict.fromkeys(each.canary for each in taken if each.canary is not None))


def _refuse_idleness(one: Ready, stock: Row | None, output: torch.Tensor | None) -> None:
    """Raises `Skip` for a peer that draws to the bit what stock draws in its dtype, and no faster.

    Plans tell of themselves what they did, by a signature.
    """
    import torch

    if one.row.kind != "peer" or one.opened.signature is not None or stock is None:
        return
    if output is None or not torch.equal(one.output, output):
        return
    if (one.row.speedup_low or 0.0) <= (stock.speedup_high or 1.0):
        raise Skip(
            "Did nothing: its output is stock's to the bit, and it is not measurably faster."
        )
