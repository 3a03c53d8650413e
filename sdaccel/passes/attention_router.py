"""Who computes an attention: looked up by its shape, and measured when a shape is first met."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..kernels.arguments import FLOATS
from .attention_candidates import Candidate
from .attention_choices import STOCK, Choices, Verdict
from .attention_operator import enrol, routed_attention, stock
from .attention_problem import Problem
from .attention_trial import WRONG, Trial, seconds_a_call

if TYPE_CHECKING:
    from ..report import PassRecord


@dataclass
class Router:
    """The choices of one pass on one pipe.

    `candidates` are those to choose from, by name; `measure` is whether an unknown shape is
    measured or left to stock. Calls are counted in `record.ran` by who computed them.
    """

    candidates: Mapping[str, Candidate]
    choices: Choices
    record: PassRecord
    measure: bool = True
    _known: dict[Any, Candidate | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._name = enrol(self)

    def way(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        dropout: float,
        causal: bool,
        scale: float | None,
        grouped: bool,
    ) -> Callable[..., torch.Tensor] | None:
        """What computes (query, key, value, mask, causal, scale) in stock's place; None for stock.

        The tensors are (B, H, S, D), (B, Hk, T, D), (B, Hk, T, Dv). A graph that is being compiled
        gets one operator, which chooses when it runs: a choice made while tracing would tie the
        graph to one size.
        """
        if dropout > 0 or torch.is_grad_enabled():
            return None
        if torch.compiler.is_compiling():
            # not `is_exporting()`: torch 2.9 says yes there whenever it compiles
            exporting = torch.compiler._is_exporting_flag
            node = _of_known_form(query, key, value, grouped) and not exporting
            return self._as_a_node if node and not _cast(query) else None
        if _cast(query):
            return None
        found = self._candidate(query, key, value, mask, causal, scale, grouped)
        return found.compute if found else None

    def compute(self, *arguments: Any) -> torch.Tensor:
        """The attention of (query, key, value, mask, causal, scale), by the way chosen for it."""
        query, key, value, mask, causal, scale = arguments
        grouped = query.shape[1] != key.shape[1]
        found = self._candidate(query, key, value, mask, causal, scale, grouped)
        return found.compute(*arguments) if found else stock(*arguments)

    def _as_a_node(self, *arguments: Any) -> torch.Tensor:
        return routed_attention(*arguments, self._name)  # type: ignore[no-any-return]

    def _candidate(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        causal: bool,
        scale: float | None,
        grouped: bool,
    ) -> Candidate | None:
        """The winner for these arguments, None where that is stock; counted as a call."""
        ran = self.record.ran
        if _restricted():
            ran[f"{STOCK}, torch's backends being restricted"] += 1
            return None
        form = (
            *(type(query), query.dtype, query.device, query.shape, query.stride()),
            *(type(key), key.dtype, key.device, key.shape, key.stride()),
            *(type(value), value.dtype, value.device, value.shape, value.stride()),
            None if mask is None else (mask.dtype, mask.shape),
            *(causal, grouped),
        )
        if form not in self._known:
            if _capturing(query):
                ran[f"{STOCK}, unknown when a graph was captured"] += 1
                return None
            if _of_known_form(query, key, value, grouped):
                self._learn(form, (query, key, value, mask, causal, scale))
            else:
                self._known[form] = None
        found = self._known.get(form)
        ran[found.name if found is not None else STOCK] += 1
        return found

    def _learn(self, form: Any, arguments: tuple[Any, ...]) -> None:
        """Look up or measure who computes what has this form."""
        problem = Problem.of(*arguments[:5])
        fit = {name: each for name, each in self.candidates.items() if each.fits(problem)}
        verdict = self.choices.get(str(problem)) if fit else Verdict(STOCK)
        if verdict is None and not self.measure:
            verdict = Verdict(STOCK)
            self.record.note(f"{problem.in_words}: {STOCK}, never measured")
        elif verdict is None:
            verdict = self._measured(problem, fit, arguments)
        elif fit:
            self._tell(problem, verdict)
            verdict = self._tried(problem, verdict, fit, arguments)
        if verdict is not None:
            self._known[form] = fit.get(verdict.winner)

    def _tried(
        self,
        problem: Problem,
        verdict: Verdict,
        fit: Mapping[str, Candidate],
        arguments: tuple[Any, ...],
    ) -> Verdict:
        """A kept verdict, if its winner takes these tensors: it was measured on others."""
        try:
            if verdict.winner in fit:
                fit[verdict.winner].compute(*arguments)
            return verdict
        except Exception as error:
            reason = f"{verdict.winner} refuses ({type(error).__name__}: {error})"
            self.record.note(f"{problem.in_words}: {STOCK}, since {reason[:200]}")
            return Verdict(STOCK)

    def _measured(
        self, problem: Problem, fit: Mapping[str, Candidate], arguments: tuple[Any, ...]
    ) -> Verdict | None:
        """The verdict of a trial, kept; None where the tensors at hand don't allow one."""
        start = time.perf_counter()
        try:
            verdict = Trial(stock, *arguments).verdict(fit, seconds_a_call)
        except torch.OutOfMemoryError:
            self.record.note(f"{problem.in_words}: {STOCK}, no memory to try others")
            return Verdict(STOCK)
        finally:
            self.record.seconds["measuring"] += time.perf_counter() - start
        if verdict is None:
            self.record.note(f"{problem.in_words}: not measured on a result that isn't finite")
            return None
        self.record.ran["shapes measured"] += 1
        self.choices.keep(str(problem), verdict)
        self._tell(problem, verdict)
        return verdict

    def _tell(self, problem: Problem, verdict: Verdict) -> None:
        """A line for the shape, and one for each candidate that can't run at all."""
        line = f"{problem.in_words}: {verdict.winner}"
        if verdict.winner != STOCK:
            own, stocks = verdict.errors[verdict.winner], verdict.errors[STOCK]
            line += (
                f", {verdict.speedup:.2f} times {STOCK}, error {own:.1e} ({STOCK}'s {stocks:.1e})"
            )
        for name, reason in verdict.dropped.items():
            if reason.startswith(WRONG):
                line += f"; {name} dropped: {reason}"
            else:
                self.record.note(f"{name} dropped: {reason}")
        self.record.note(line)


def _of_known_form(query: Any, key: Any, value: Any, grouped: bool) -> bool:
    """Plain 4-D tensors on a CPU or GPU, with something in them, that torch itself would take."""
    tensors = (query, key, value)
    return (
        all(type(each) is torch.Tensor and each.dim() == 4 for each in tensors)
        and query.dtype in FLOATS
        and query.device.type in ("cpu", "cuda")
        and all(each.dtype == query.dtype and each.device == query.device for each in tensors)
        and all(0 not in each.shape for each in tensors)
        and (grouped or query.shape[1] == key.shape[1] == value.shape[1])
    )


def _cast(query: torch.Tensor) -> bool:
    """Whether autocast is to choose the dtype, which stock's attention knows about."""
    return torch.is_autocast_enabled(query.device.type)


def _capturing(query: torch.Tensor) -> bool:
    return query.is_cuda and torch.cuda.is_current_stream_capturing()


def _restricted() -> bool:
    """Whether someone has switched one of torch's backends off, for the process or for a while."""
    cuda = torch.backends.cuda
    return not (
        cuda.flash_sdp_enabled()
        and cuda.mem_efficient_sdp_enabled()
        and cuda.math_sdp_enabled()
        and cuda.cudnn_sdp_enabled()
    )
