"""One denoiser whose unconditional branch is not computed at every step.

What is kept is the difference between the branches, the unconditional one minus the conditional.
It serves the same text at the same sizes in later steps of the same generation, and nothing else;
which steps it serves is known from their numbers: no tensor is read.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .generation_choice import GenerationChoice
from .step_cache_history import History
from .step_cache_schedule import Choice, Chooses, Schedule
from .step_cache_state import arguments_of, condition_of, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from ..report import PassRecord
    from .step_cache_state import Recorder

GUIDED = "_sdaccel_guidance"
"""Under this name a denoiser has its branches."""


@dataclass(frozen=True)
class GuidedSteps:
    """In which of a generation's steps both branches are computed.

    All from the share `start` of them to the share `stop`, and each `every`-th after that (None:
    none). Before `start` there is no guidance, after `stop` only where `hold` keeps the difference,
    of which `order` and `variable` say how it goes on. In fewer than `fewest` steps all are guided.
    With the list `steps` both are computed there, at the ends and beyond the list's last.
    """

    start: float
    stop: float
    every: int | None
    hold: bool
    fewest: int
    order: int = 0
    variable: str = "step"
    steps: tuple[int, ...] | None = None

    def choose(self, total: int) -> Choice:
        """The steps of a generation of `total` steps that compute both branches."""
        if total < self.fewest:
            return Choice.everything(total)
        if self.steps is not None:
            listed = Schedule(1, self.steps, order=self.order, variable=self.variable)
            return listed.choose(total)
        first, stop = round(self.start * total), round(self.stop * total)
        both = set(range(first, stop))
        if self.every is not None:
            both |= set(range(stop + self.every - 1, total, self.every))
        unguided = set(range(first if self.hold else total)) - both
        return Choice(
            frozenset(both), self.order, variable=self.variable, unguided=frozenset(unguided)
        )


class Branches:
    """The difference between the branches, and what the running call does about it."""

    def __init__(self, name: str, clock: Clock, steps: Chooses, record: PassRecord) -> None:
        self.name = name
        self.recorder: Recorder | None = None
        self.choice = GenerationChoice(name, clock, steps, record)
        self._clock = clock
        self._record = record
        self.reset()

    def __deepcopy__(self, memo: dict[int, Any]) -> Branches:
        """A copied denoiser is driven by no clock: it computes both branches."""
        from ..clock import Clock

        return Branches(self.name, Clock(), self.choice.schedule, self._record)

    def reset(self) -> None:
        """Forget everything: a generation begins, or the pipe's call is over."""
        self.choice.reset()
        self._difference: History | None = None
        self._known: tuple[Hashable, Any] | None = None

    def single(self, host: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | None:
        """Whether this call, which has the unconditional branch in it, goes without it.

        None where it is none of the generation's: the first one says which text and sizes are.
        """
        import torch

        clock, total = self._clock, self._clock.total_steps
        if total is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        asked = signature_of(args, kwargs), condition_of(arguments_of(host, args, kwargs))
        if self._known is None:
            self._known = asked
        if self._known[0] != asked[0] or self._known[1] is not asked[1]:
            self._record.ran[f"{self.name} both branches for a new text or size"] += 1
            return None
        choice = self.choice.of(total)
        if clock.step >= total or clock.step in choice.full:
            return False
        return self._difference is not None or clock.step in choice.unguided

    def keep(self, unconditional: Any, conditional: Any) -> None:
        """Both branches were computed."""
        self._record.ran[f"{self.name} both branches"] += 1
        clock, total = self._clock, self._clock.total_steps
        if total is None:
            return
        difference = unconditional - conditional
        if self.recorder is not None:
            self.recorder("difference", clock.step, difference)
        if self._difference is None:
            self._difference = History(self.choice.of(total).order)
        self._difference.keep(self.choice.point(clock.step, total), difference)

    def predict(self, conditional: Any) -> Any:
        """The unconditional branch of this step; without guidance the conditional one itself."""
        self._record.ran[f"{self.name} one branch"] += 1
        step, total = self._clock.step, self._clock.total_steps
        if total is None or self._difference is None or step in self.choice.of(total).unguided:
            return conditional
        return conditional + self._difference.predict(self.choice.point(step, total))


class OneCall:
    """Hooks around a denoiser that computes both branches in one call, unconditional ones first."""

    def __init__(self, branches: Branches) -> None:
        self._branches = branches
        self._single: bool | None = None
        self._halves: dict[int, tuple[Any, Any]] = {}

    def before(self, host: Any, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int) -> Any:
        """The arguments without the unconditional half, or None where it is computed."""
        from torch.utils import _pytree

        self._single = self._branches.single(host, args, kwargs)
        if not self._single:
            return None
        before, self._halves = self._halves, {}

        def conditional(each: Any) -> Any:
            if each.ndim == 0 or each.shape[0] != batch:
                return each
            whole, half = before.get(id(each), (None, None))
            # whoever knows a text by its tensor is given the same half at each step
            half = half if whole is each else each[batch // 2 :]
            self._halves[id(each)] = each, half
            return half

        return _pytree.tree_map_only(_tensor(), conditional, (args, kwargs))

    def after(self, output: Any) -> Any:
        """The output with the unconditional half in its place, or None where it is there."""
        import torch

        single, self._single = self._single, None
        if single:
            return _with_first(output, torch.cat([self._branches.predict(output[0]), output[0]]))
        if single is not None:
            self._branches.keep(*output[0].chunk(2))
        return None

    def reset(self) -> None:
        """Hold on to no halves."""
        self._halves = {}
        self._single = None


class TwoCalls:
    """Stands where a denoiser's forward is looked up that is called for one branch after the other.

    The second call of a step is the unconditional one's.
    """

    def __init__(self, host: Any, branches: Branches, calls: Callable[[], int]) -> None:
        functools.update_wrapper(self, host.forward)
        self._host = host
        self.stock = host.forward
        self._branches = branches
        self._calls = calls
        self._conditional: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        conditional, self._conditional = self._conditional, None
        call = self._calls()
        if call != 2 or conditional is None:
            output = self.stock(*args, **kwargs)
            self._conditional = output if call == 1 else None
            return output
        single = self._branches.single(self._host, args, kwargs)
        if single:
            return _with_first(conditional, self._branches.predict(conditional[0]))
        output = self.stock(*args, **kwargs)
        if single is not None:
            self._branches.keep(output[0], conditional[0])
        return output

    def reset(self) -> None:
        """Hold on to no output."""
        self._conditional = None


def _with_first(output: Any, value: Any) -> Any:
    """An output of the denoiser's with another first tensor."""
    if isinstance(output, tuple):
        return (value, *output[1:])
    name = dataclasses.fields(output)[0].name
    return dataclasses.replace(output, **{name: value})


def _tensor() -> Any:
    import torch

    return torch.Tensor
