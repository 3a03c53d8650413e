"""One forward, watched: which functions of torch it calls, with what.

What Python does in between is lost, so nothing that matters may happen there. Everything that torch
computes has to be inside of a function that is seen to be called; no value may reach Python, where
it might decide anything; nothing random may be drawn, and nothing written that was there before.
Otherwise an `UncapturableError` says what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from .flat_code import Code
from .graph_inputs import UncapturableError
from .hoist_operations import is_from_python, is_tensor, memory_of, shape_tells, written_by

_TO_PYTHON = {"tolist", "numpy", "__array__", "__dlpack__", "__reduce_ex__", "__deepcopy__"}
_UNFILLED = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty"}
_UNFILLED |= {"new_empty_strided"}
_OTHER_MEMORY = {"__set__", "set_", "resize_"}
_VIEWS = {"view", "transpose", "permute", "reshape", "unsqueeze", "flatten", "unflatten"}
_VALUE = "a value decides what it does"
_WRAPPERS = ("torch.nn.functional", "torch.functional")
_ASKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


class Tape(TorchFunctionMode):
    """Writes down a forward of these inputs, which must be distinct objects."""

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._names = WeakTensorKeyDictionary()
        self._inputs = [f"i{place}" for place in range(len(inputs))]
        for name, each in zip(self._inputs, inputs, strict=True):
            self._names[each] = name
        self._viewed = WeakTensorKeyDictionary()
        self._code = Code(self._name_of)
        self._operations = _Operations()
        self._bodies: dict[Any, Callable[..., Any]] = {}
        self._open: list[Any] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs inside of the block; raises `UncapturableError`, if only at its end."""
        with self._operations, self:
            yield
        if self._operations.obstacle is not None:
            raise self._operations.obstacle

    def function(self, outputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
        """What was seen, as a function of the inputs that returns a tuple of these tensors."""
        return self._code.function(self._inputs, outputs)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for kind in types:
            if not issubclass(kind, torch.Tensor):
                # it only acts as a tensor: what it makes of this call is what is watched
                with self._operations.outside(), self:
                    return kind.__torch_function__(func, types, args, kwargs)
        body = self._body_of(func)
        if body is not None and func not in self._open:
            self._open.append(func)
            try:
                with self._operations.outside(), self:
                    return body(*args, **kwargs)
            finally:
                self._open.remove(func)
        self._check(getattr(func, "__name__", ""))
        with self._operations.inside():
            output = func(*args, **kwargs)
        self._write_down(func, args, kwargs, output)
        return output

    def _body_of(self, func: Any) -> Callable[..., Any] | None:
        """What a function written in Python does once it has asked who overrides it; else None."""
        if not isinstance(func, FunctionType) or func.__module__ not in _WRAPPERS:
            return None
        if func not in self._bodies:
            around = {**func.__globals__, **dict.fromkeys(_ASKS, lambda *_: False)}
            body = FunctionType(
                func.__code__, around, func.__name__, func.__defaults__, func.__closure__
            )
            body.__kwdefaults__ = func.__kwdefaults__
            self._bodies[func] = body
        return self._bodies[func]

    def _write_down(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        computed, wrote = self._operations.last
        unpacked = isinstance(output, (tuple, list)) and not isinstance(output, torch.Size)
        results = list(output) if unpacked else [output]
        tensors = [each for each in results if is_tensor(each)]
        if not computed and all(each in self._names for each in tensors):
            return
        given = {id(each) for each in _pytree.tree_leaves((args, kwargs)) if is_tensor(each)}
        if getattr(func, "__name__", "") in _VIEWS and self._is_view(output, args[0]):
            func, args, kwargs = self._as_one_view(func, args, kwargs, output)
        try:
            names = [self._code.fresh() for _ in results] if tensors else []
            self._code.add(func, args, kwargs, names, unpacked and bool(tensors), wrote)
        except UncapturableError as error:
            self._operations.refuse(str(error))
        for name, each in zip(names, results, strict=False):
            if is_tensor(each) and id(each) not in given:
                self._names[each] = name

    def _is_view(self, output: torch.Tensor, base: torch.Tensor) -> bool:
        """Whether strides are all that a result has of its own."""
        return (
            memory_of(output) == memory_of(base)
            and output.storage_offset() == base.storage_offset()
            and output.dtype == base.dtype
            and not base.is_complex()
        )

    def _as_one_view(self, func: Any, args: Any, kwargs: Any, output: torch.Tensor) -> Any:
        """A view of a view, as one of what that one is of: heads are split off by two."""
        base = self._viewed.get(args[0])
        self._viewed[output] = args[0] if base is None else base
        if base is None:
            return func, args, kwargs
        return torch.Tensor.as_strided, (base, tuple(output.shape), output.stride()), {}

    def _check(self, name: str) -> None:
        """Refuse what is no operation, or half of one."""
        if name in _TO_PYTHON:
            self._operations.refuse(_VALUE)
        if name in _OTHER_MEMORY:
            self._operations.refuse("it gives a tensor other memory")

    def _name_of(self, tensor: torch.Tensor) -> str | None:
        name: str | None = self._names.get(tensor)
        if name is None and memory_of(tensor) in self._operations.born:
            raise UncapturableError("a tensor in it comes from where nobody looked")
        return name


class Unfilled(TorchFunctionMode):
    """Inside, memory that is made without values is all NaN: whoever doesn't fill it, shows."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _UNFILLED and output.is_floating_point():
            output.fill_(float("nan"))
        return output


class _Operations(TorchDispatchMode):
    """What torch computes inside of the functions that are seen; `born` is memory made by it.

    `last` tells of the function that was called last whether it computed anything, and wrote.
    """

    def __init__(self) -> None:
        super().__init__()
        self.born: set[int] = set()
        self.last = (False, False)
        self.obstacle: UncapturableError | None = None
        self._is_inside = False

    @contextmanager
    def inside(self) -> Iterator[None]:
        """A function of torch is called."""
        self.last, self._is_inside = (False, False), True
        try:
            yield
        finally:
            self._is_inside = False

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Python decides which functions of torch are called."""
        before, self._is_inside = self._is_inside, False
        try:
            yield
        finally:
            self._is_inside = before

    def refuse(self, reason: str) -> None:
        """Raise, and remember it, for a model may catch what is raised in it."""
        self.obstacle = self.obstacle or UncapturableError(reason)
        raise self.obstacle

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self._is_inside:
            self.refuse(f"{func} runs where no function of torch was called")
        written = written_by(func, args, kwargs)
        self._check(func, written)
        output = func(*args, **kwargs)
        given = [each for each in _pytree.tree_leaves((args, kwargs)) if is_tensor(each)]
        results = [each for each in _pytree.tree_leaves(output) if is_tensor(each)]
        if (given and not results and not written) or shape_tells(func, args):
            self.refuse(_VALUE)
        known = set() if is_from_python(func) else {memory_of(each) for each in given}
        self.born |= {memory_of(each) for each in results} - known
        self.last = True, self.last[1] or bool(written)
        return output

    def _check(self, func: Any, written: Sequence[torch.Tensor]) -> None:
        """Refuse, before it is done, what may not be done twice."""
        if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in str(func):
            self.refuse("it draws random numbers")
        if any(memory_of(each) not in self.born for each in written):
            self.refuse("it writes to what was there before")
