"""One way through a schedule: a program, the tensors it keeps, and where it stands.

On a CPU the host knows the step, so the weights are Python numbers, and each sum is as few passes
over memory as torch has for it. On a device one launch of `linear_step` reads them from the
program's table by a counter that lies there too; the host only corrects the counter where the
schedule is not followed in order.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Mapping
from typing import Any

import torch

from ..kernels.linear_step import linear_step
from .guided import Guided
from .probe import Dtypes
from .program import CLIPPED, SAMPLE, Options, Program, Step, Weights


class Trajectory:
    """The state of one generation for inputs of one shape and device.

    `position` is the index in the schedule of the step that comes next, `dtypes` those of its
    results.
    """

    def __init__(
        self, program: Program, key: Options, sample: torch.Tensor, prediction: torch.Tensor
    ) -> None:
        self.program, self.key = program, key
        self.position = program.start
        self.dtypes = Dtypes(None, ())
        self.shape, self.device = sample.shape, sample.device
        self._kinds: tuple[torch.dtype, torch.dtype] | None = None
        self._given: tuple[list[str], list[Any]] = ([], [])
        self._end = program.start + len(program.steps)
        self._on_host = sample.device.type == "cpu"
        self._counter: torch.Tensor | None = None
        self._counted = 0
        self._history: torch.Tensor | None = None
        self._slots: list[torch.Tensor] = []
        if program.slots:
            kept = torch.promote_types(sample.dtype, prediction.dtype)
            self._history = sample.new_zeros((program.slots + 2, *sample.shape), dtype=kept)
            self._slots = list(self._history.unbind())

    def __deepcopy__(self, memo: dict[int, Any]) -> Trajectory:
        """The same place in the same program, with slots of its own."""
        twin = copy.copy(self)
        if self._history is not None:
            twin._history = self._history.clone()
            twin._slots = [each.clone() for each in self._slots]
            if not self._on_host:
                twin._slots = list(twin._history.unbind())
        twin._counter, twin._counted = None, 0
        return twin

    def expect(
        self,
        position: int,
        kinds: tuple[torch.dtype, torch.dtype],
        options: Mapping[str, Any],
        dtypes: Dtypes,
    ) -> None:
        """The next step is that at a position, for sample and prediction of these dtypes."""
        self.position, self._kinds, self.dtypes = position, kinds, dtypes
        self._given = list(options), list(options.values())

    def takes(self, sample: Any, prediction: Any, options: Mapping[str, Any]) -> bool:
        """Whether a step's inputs are as those of the step before, and there is a step left."""
        if type(sample) is not torch.Tensor or type(prediction) is not torch.Tensor:
            return False
        names, values = self._given
        return (
            self.position < self._end
            and sample.shape == self.shape == prediction.shape
            and (sample.dtype, prediction.dtype) == self._kinds
            and sample.device == self.device == prediction.device
            and list(options) == names
            and all(map(operator.is_, options.values(), values))
            and not (prediction.requires_grad or sample.requires_grad)
        )

    def step(self) -> Step:
        """The step that comes next."""
        return self.program.steps[self.position - self.program.start]

    def combining(self, guided: Guided) -> tuple[torch.Tensor, Guided | None]:
        """The prediction, and with whom a step has to combine it: a kernel does that by itself."""
        if self._on_host:
            return guided.value(), None
        guided.check_unchanged()
        return guided.conditional, guided

    def advance(
        self,
        step: Step,
        sample: torch.Tensor,
        prediction: torch.Tensor,
        noise: torch.Tensor | None,
        guided: Guided | None = None,
    ) -> torch.Tensor:
        """Make the next step, which is `step`: the slots are brought up to date, too.

        Where the prediction is the conditional one, `guided` has the other.
        """
        if self._on_host:
            result = self._on_the_host(step, sample, prediction, noise)
        else:
            result = self._on_the_device(step, sample, prediction, noise, guided)
        self.position += 1
        return result

    def slot(self, index: int) -> torch.Tensor:
        """A copy of what a slot holds."""
        return self._slots[index].clone()

    def beside(
        self,
        step: Step,
        sample: torch.Tensor,
        prediction: torch.Tensor,
        noise: torch.Tensor | None,
        guided: Guided | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """What stock returns next to the sample, from the step's own inputs."""
        if not step.beside:
            return ()
        columns = [sample, prediction if guided is None else guided.value(), noise, None]
        _clip(step, columns)
        pairs = zip(step.beside, self.dtypes.results[1:], strict=True)
        return tuple(_sum(weights, columns).to(dtype) for weights, dtype in pairs)

    def _on_the_host(
        self, step: Step, sample: torch.Tensor, prediction: torch.Tensor, noise: torch.Tensor | None
    ) -> torch.Tensor:
        columns = [sample, prediction, noise, None, *self._slots]
        if step.clip is not None:
            _clip(step, columns)
        result = _sum(step.result, columns)
        for spare, (slot, weights) in enumerate(step.writes, self.program.slots):
            _sum_into(self._slots[spare], weights, columns)
            # the old values may still be read for the next slot: the two change places
            slots = self._slots
            slots[spare], slots[slot] = slots[slot], slots[spare]
        dtype = self.dtypes.results[0]
        return result if dtype is torch.float32 else result.to(dtype)

    def _on_the_device(
        self,
        step: Step,
        sample: torch.Tensor,
        prediction: torch.Tensor,
        noise: torch.Tensor | None,
        guided: Guided | None,
    ) -> torch.Tensor:
        row = self.position - self.program.start
        if self._counter is None:
            self._counter = torch.zeros(2, dtype=torch.int32, device=sample.device)
        if self._counted != row:
            self._counter[:1].fill_(row)
        self._counted = row + 1
        history = None if self._history is None else self._history[: self.program.slots]
        table = self.program.table(sample.device)
        dtype, clips = self.dtypes.results[0], step.clip is not None
        unguided, scale = (None, 1.0) if guided is None else (guided.unguided, guided.scale)
        rest = (table, self._counter, dtype, clips, unguided, scale)
        return linear_step(sample, prediction, noise, history, *rest)


def _clip(step: Step, columns: list[Any]) -> None:
    """Fill in the column of the sum that a step clips."""
    clip = step.clip
    if clip is not None:
        columns[CLIPPED] = _sum(clip.weights, columns).clamp_(clip.low, clip.high)


def _sum(weights: Weights, columns: list[Any]) -> torch.Tensor:
    """A new tensor in fp32: the columns times their weights."""
    if not weights:
        return torch.zeros_like(columns[SAMPLE], dtype=torch.float32)
    column, weight = weights[0]
    first: torch.Tensor = columns[column]
    begun = 1
    if first.dtype is not torch.float32:
        found = first.to(torch.float32)
        if weight != 1.0:
            found.mul_(weight)
    elif weight == 1.0 and len(weights) > 1:
        column, weight = weights[1]
        found, begun = torch.add(first, columns[column], alpha=weight), 2
    else:
        found = torch.mul(first, _scalar(weight))
    for column, weight in weights[begun:]:
        found.add_(columns[column], alpha=weight)
    return found


@functools.lru_cache(maxsize=1 << 12)
def _scalar(weight: float) -> torch.Tensor:
    """A weight as a tensor: by a Python number torch.mul takes 1.1 microseconds longer.

    On one core of an AMD EPYC, of 2.9 for 16384 values.
    """
    return torch.tensor(weight, dtype=torch.float32, device="cpu")


def _sum_into(target: torch.Tensor, weights: Weights, columns: list[Any]) -> None:
    """The same in place of what `target` held; in 16 bit it is rounded once, at the end."""
    if target.dtype is not torch.float32 or not weights:
        target.copy_(_sum(weights, columns))
        return
    column, weight = weights[0]
    torch.mul(columns[column], _scalar(weight), out=target)
    for column, weight in weights[1:]:
        target.add_(columns[column], alpha=weight)
