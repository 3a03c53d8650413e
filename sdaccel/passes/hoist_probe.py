"""What each module's output depends on, seen in one forward of a denoiser.

While a `Probe` is open, every operation of torch passes through it. It labels each tensor's memory
with the inputs that went into it, one bit an input, and writes down the operations that the latents
have no part in. So what is constant, and what depends on the timestep alone, is found in any model.

    bits 0 to n-1   the tensors among the forward's arguments
    bit n           unknown: uninitialised, random, or of an origin that nobody saw
    bit n+1         computed after a value has reached Python, where it may decide anything

What reaches Python (`.item()`, `.tolist()`, the shape of a `nonzero`) labels all that comes later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .hoist_operations import (
    flops_of,
    is_arbitrary,
    is_from_python,
    is_tensor,
    memory_of,
    shape_tells,
    written_by,
)
from .hoist_tape import Ref, Step
from .hoist_watch import attributes_of
from .standing_in import standing_in

_TO_PYTHON = {"tolist", "numpy", "__array__", "__dlpack__", "__reduce_ex__", "__deepcopy__"}
_VALUES = (bool, int, float, complex, str, type(None))


@dataclass(eq=False)
class Call:
    """One call of a module: its how manieth in this forward, and what came of it.

    `leaves` are the numbers of the output's tensors, or other leaves as they are. `whole` tells
    whether the output is made of tensors and plain values, `pure` whether the call wrote to nothing
    that was there before it.
    """

    module: torch.nn.Module
    index: int
    parent: Call | None
    start: int
    labels: int = 0
    leaf_labels: list[int] = field(default_factory=list)
    leaves: list[Any] = field(default_factory=list)
    structure: Any = None
    whole: bool = False
    pure: bool = True
    steps: int = 0
    flops: int = 0

    def lineage(self) -> Iterator[Call]:
        """This call and those it was made in, from the inside out."""
        call: Call | None = self
        while call is not None:
            yield call
            call = call.parent


class Probe(TorchDispatchMode):
    """Watches one forward; afterwards `calls`, `steps` and `numbered` tell what it was made of.

    `varying` are the bits of the inputs that change from step to step, the timestep not among them.
    `numbered` has the tensors that the latents have no part in, by number, `outside` those of them
    that were there before, `attributes` what modules hold beside their weights; `leaked` the bits
    of what reached Python; `lost` tells that a tensor came from somewhere unseen.
    """

    def __init__(
        self, model: torch.nn.Module, inputs: Sequence[torch.Tensor], varying: int
    ) -> None:
        super().__init__()
        self.model = model
        self.attributes: dict[int, tuple[Any, Any, torch.Tensor]] = {}
        self._held = {id(each[2]): each for each in attributes_of(model)}
        self._weights = {id(each) for each in (*model.parameters(), *model.buffers())}
        self.unknown, self.after_python = 1 << len(inputs), 2 << len(inputs)
        self.never = varying | self.unknown
        self.calls: list[Call] = []
        self.steps: list[Step] = []
        self.numbered: list[torch.Tensor] = []
        self.outside: dict[int, torch.Tensor] = {}
        self.leaked = 0
        self.lost = False
        self.writes_outside = False
        self._numbers: dict[int, int] = {}
        self._labels: dict[int, int] = {}
        self._born: dict[int, int] = {}
        self._current: Call | None = None
        self._counts: dict[int, int] = {}
        self._time = 0
        self.inputs = [self._number(each, outside=True) for each in inputs]
        for place, each in enumerate(inputs):
            key = memory_of(each)
            self._labels[key] = self._labels.get(key, 0) | 1 << place

    @contextmanager
    def watching(self) -> Iterator[Probe]:
        """Watch what runs inside of the block, and the calls of the model's modules."""
        modules = [each for each in self.model.modules() if each is not self.model]
        stand_ins = {each: _Recorded(each, each.forward, self) for each in modules}
        with ExitStack() as stack:
            stack.enter_context(standing_in(stand_ins))
            stack.enter_context(_Leaks(self))
            stack.enter_context(self)
            yield self

    def begin(self, module: torch.nn.Module) -> Call:
        """A module is called."""
        index = self._counts.get(id(module), 0)
        self._counts[id(module)] = index + 1
        self._time += 1
        call = self._current = Call(module, index, self._current, self._time)
        self.calls.append(call)
        return call

    def end(self, call: Call, output: Any = None, done: bool = False) -> None:
        """A call is over, with this output where it is `done`."""
        self._current = call.parent
        if not done:
            return
        leaves, call.structure = _pytree.tree_flatten(output)
        call.whole = all(type(each) in (torch.Tensor, *_VALUES) for each in leaves)
        tensors = [each for each in leaves if isinstance(each, torch.Tensor)]
        self._mark_foreign(tensors)
        if self._has_lost(tensors):
            self.lost, call.labels = True, self.unknown
        call.leaf_labels = [self._label_of(each) | self._after() for each in tensors]
        for each in call.leaf_labels or [self._after()]:
            call.labels |= each
        if call.whole and not call.labels & self.never:
            call.leaves = [
                Ref(self._number(each, outside=True)) if is_tensor(each) else each
                for each in leaves
            ]

    def leak(self, tensor: torch.Tensor) -> None:
        """A tensor's values have reached Python."""
        self.leaked |= self._label_of(tensor)
        self.leaked |= self.after_python if self._label_of(tensor) else 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [each for each in _pytree.tree_leaves((args, kwargs)) if is_tensor(each)]
        if not is_from_python(func):
            self._mark_foreign(tensors)
        labels = self._after()
        for each in tensors:
            labels |= self._label_of(each)
        if self._has_lost(tensors):
            self.lost, labels = True, labels | self.unknown
        if is_arbitrary(func):
            labels |= self.unknown
        output = func(*args, **kwargs)
        self._time += 1
        results = [each for each in _pytree.tree_leaves(output) if is_tensor(each)]
        written = written_by(func, args, kwargs)
        self._label(tensors, results, written, labels)
        self._write_down(func, args, kwargs, output, (tensors, written), labels)
        if (tensors and not results and not written) or shape_tells(func, args):
            self.leaked |= labels | (self.after_python if labels else 0)
        return output

    def _label(self, tensors: Any, results: Any, written: Any, labels: int) -> None:
        given = {memory_of(each) for each in tensors}
        for each in results:
            key = memory_of(each)
            if key in given:
                self._labels[key] = self._labels.get(key, 0) | labels
            else:
                self._labels[key], self._born[key] = labels, self._time
        for each in written:
            key = memory_of(each)
            self._labels[key] = self._labels.get(key, 0) | labels
            born = self._born.get(key, -1)
            for call in self._current.lineage() if self._current else ():
                call.pure = call.pure and born > call.start

    def _write_down(
        self, func: Any, args: Any, kwargs: Any, output: Any, touched: Any, labels: int
    ) -> None:
        """Keep an operation for replay, or, where the latents are in it, what else it has used."""
        tensors, written = touched
        flops = flops_of(func, args, kwargs, output)
        for call in self._current.lineage() if self._current else ():
            call.steps += 1
            call.flops += flops
        kept = [each for each in tensors if not self._label_of(each) & self.never]
        uses = tuple(self._number(each, outside=True) for each in kept)
        if labels & self.never:
            self.steps.append(Step(None, (), {}, None, uses, (), self._current))
            return
        if any(self._numbers[id(each)] in self.outside for each in written if is_tensor(each)):
            self.writes_outside = True
        arguments, named, results = (
            _pytree.tree_map(self._reference, each) for each in (args, kwargs, output)
        )
        overwritten = tuple(self._numbers[id(each)] for each in written)
        self.steps.append(Step(func, arguments, named, results, uses, overwritten, self._current))

    def _reference(self, leaf: Any) -> Any:
        return Ref(self._number(leaf)) if is_tensor(leaf) else leaf

    def _number(self, tensor: torch.Tensor, outside: bool = False) -> int:
        """The number of a tensor; it is kept until the probe goes, so that none is given twice."""
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self.numbered)
            self.numbered.append(tensor)
            if outside:
                self.outside[number] = tensor
        return number

    def _has_lost(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether something labelled comes in that no operation has put out: a detached twin."""
        labels = [self._label_of(each) for each in tensors]
        return any(
            each and not each & self.never and id(tensor) not in self._numbers
            for each, tensor in zip(labels, tensors, strict=True)
        )

    def _mark_foreign(self, tensors: Sequence[torch.Tensor]) -> None:
        """Label what comes from outside of the forward and the model, such as a cache's tensors."""
        for each in tensors:
            if self._is_foreign(each):
                self._labels[memory_of(each)] = self.unknown

    def _is_foreign(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is no input, no result and nothing that the model holds."""
        key = id(tensor)
        if key in self._held:
            self.attributes[key] = self._held[key]
        return not (
            key in self._numbers
            or key in self._weights
            or key in self._held
            or self._label_of(tensor)
        )

    def _label_of(self, tensor: torch.Tensor) -> int:
        return self._labels.get(memory_of(tensor), 0)

    def _after(self) -> int:
        return self.leaked


class _Recorded:
    """Stands where a module's `forward` is looked up, and tells the probe of each call."""

    def __init__(self, module: torch.nn.Module, forward: Any, probe: Probe) -> None:
        self._module, self._forward, self._probe = module, forward, probe

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self._probe.begin(self._module)
        try:
            output = self._forward(*args, **kwargs)
        except BaseException:
            self._probe.end(call)
            raise
        self._probe.end(call, output, done=True)
        return output


class _Leaks(TorchFunctionMode):
    """Sees the ways to a tensor's values that are no operations."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self._probe = probe

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _TO_PYTHON and args and is_tensor(args[0]):
            self._probe.leak(args[0])
        return func(*args, **(kwargs or {}))
