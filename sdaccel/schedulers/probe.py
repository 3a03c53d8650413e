"""Stock's own step, run on basis vectors: what it does to each is the weight of each.

A sampler's step is linear in its tensors, with weights that depend on the step alone. So a copy of
the stock scheduler is led through its schedule on the CPU with a tiny tensor whose every entry
stands for one of the things that are added up, and the weights are read off what it returns and
keeps. No formula is written down a second time, and every option that stock has is served as long
as the step stays linear. That is checked at each step: nothing in must give nothing out, and a
mixture of everything the mixture of the results. Noise and clipping are noticed as stock asks for
them.

Scalars are computed by stock, in stock's precision; the vectors stay float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..kernels.linear_step import FIRST_SLOT, SLOTS, WIDTH, WRITES
from .program import CLIPPED, NOISE, PREDICTION, SAMPLE, Clip, Place, Program, Step, Weights

_NOTHING, _MIXTURE = WIDTH, WIDTH + 1
_SHAPE = (1, WIDTH + 2, 1, 1)
_MIXED = tuple(1 / (column + 1.5) for column in range(WIDTH))
_LARGE = 2.0**20
"""What stands for 1: so large that an option that limits values can't pass for linear."""
_ROUNDING = 1e-5


class UnprobedError(Exception):
    """This step can't be a weighted sum; says why, in half a sentence."""


def copy_of(stock: type, state: Mapping[str, Any]) -> Any:
    """A scheduler of the stock class with this `__dict__`; its lists are its own."""
    twin: Any = object.__new__(stock)
    own = {name: list(each) if isinstance(each, list) else each for name, each in state.items()}
    twin.__dict__.update(own, is_scale_input_called=True)
    return twin


def probe(stock: type, state: Mapping[str, Any], start: int, options: Mapping[str, Any]) -> Program:
    """The program of a schedule from `start` on; `state` is a scheduler's `__dict__` on the CPU.

    Raises `UnprobedError` where a step isn't linear or keeps more than the kernel's table takes.
    """
    if any(hasattr(each, "set_timesteps") for each in state.values()):
        raise UnprobedError("it hands the step to another scheduler")
    twin = copy_of(stock, state)
    if "_step_index" in state:
        twin._step_index = start
    changes = _Changes(twin)
    places: dict[Place, int] = {}
    steps, output = [], None
    for timestep in state["timesteps"][start:]:
        with _Watch() as watch, torch.no_grad():
            try:
                output = twin.step(_unit(PREDICTION), timestep, _unit(SAMPLE), **options)
            except Exception as error:
                raise UnprobedError(f"its step fails on a probe ({error})") from error
        steps.append(_read(twin, changes, output, watch, places))
        for place, slot in places.items():
            _put(twin, place, _unit(FIRST_SLOT + slot))
    if output is None:
        raise UnprobedError("there is no step left")
    slots = max((slot + 1 for step in steps for _, slot in step.places), default=0)
    return Program(start, tuple(steps), slots, type(output), tuple(output.keys()))


@dataclass(frozen=True)
class Dtypes:
    """What stock would give for inputs of certain dtypes: of the noise, and of each result."""

    noise: torch.dtype | None
    results: tuple[torch.dtype, ...]


def dtypes_of(
    stock: type,
    state: Mapping[str, Any],
    start: int,
    options: Mapping[str, Any],
    sample: torch.dtype,
    prediction: torch.dtype,
) -> Dtypes:
    """The dtypes of one stock step, found by making it on a tensor of one value."""
    twin = copy_of(stock, state)
    if "_step_index" in state:
        twin._step_index = start
    values = [torch.zeros((1, 1, 1, 1), dtype=dtype) for dtype in (prediction, sample)]
    with _Watch() as watch, torch.no_grad():
        output = twin.step(values[0], state["timesteps"][start], values[1], **options)
    return Dtypes(watch.dtype, tuple(each.dtype for each in output.values()))


def scale_of(stock: type, state: Mapping[str, Any], position: int) -> float:
    """What stock's `scale_model_input` multiplies a sample by before the step at a position."""
    twin = copy_of(stock, state)
    twin._step_index = position
    one = torch.ones(1, dtype=torch.float64)
    return float(twin.scale_model_input(one, state["timesteps"][position]))


class _Watch(TorchFunctionMode):
    """Within it, noise that is drawn and values that are clipped become basis vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype: torch.dtype | None = None
        self.clip: Clip | None = None

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if function is torch.randn:
            return self._draw(args[0], options["dtype"])
        if function in (torch.clamp, torch.Tensor.clamp) and args[0].shape == _SHAPE:
            bounds = [options.get("min"), options.get("max")]
            bounds[: len(args) - 1] = args[1:]
            low, high = bounds
            if isinstance(low, (int, float)) and isinstance(high, (int, float)):
                return self._limit(args[0], float(low), float(high))
        if function is torch.Tensor.to and args[0].shape == _SHAPE:
            return args[0]  # in the fp32 that stock casts to, differences of weights would round
        return function(*args, **options)

    def _draw(self, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        if self.dtype is not None:
            raise UnprobedError("it draws noise twice in a step")
        self.dtype = dtype
        if tuple(shape) != _SHAPE:
            return torch.zeros(tuple(shape), dtype=dtype)
        return _unit(NOISE).to(dtype)

    def _limit(self, values: torch.Tensor, low: float, high: float) -> torch.Tensor:
        if self.clip is not None:
            raise UnprobedError("it clips twice in a step")
        self.clip = Clip(_weights(values), low, high)
        return _unit(CLIPPED).to(values.dtype)


class _Changes:
    """The attributes of a scheduler, other than lists, that its steps have changed so far."""

    def __init__(self, twin: Any) -> None:
        self._twin, self._before = twin, dict(twin.__dict__)
        self._names: set[str] = set()

    def without(self, holders: set[str]) -> dict[str, Any]:
        """What they are now, but for those that hold probing tensors."""
        now = self._twin.__dict__
        for name, value in now.items():
            known = name in self._before and self._before[name] is value
            if not known and not isinstance(value, list):
                self._names.add(name)
        return {name: now[name] for name in sorted(self._names - holders)}


def _unit(column: int) -> torch.Tensor:
    """1 in a column of its own, its share in the mixture, and 0 elsewhere."""
    vector = [0.0] * _SHAPE[1]
    vector[column], vector[_MIXTURE] = _LARGE, _LARGE * _MIXED[column]
    return torch.tensor(vector, dtype=torch.float64).view(_SHAPE)


def _weights(vector: torch.Tensor) -> Weights:
    """Read off a vector; a weight of 1 comes first, since a sum that begins with it is shorter."""
    values = [each / _LARGE for each in vector.flatten().tolist()]
    mixed = [weight * share for weight, share in zip(values, _MIXED, strict=False)]
    size = sum(abs(each) for each in mixed)
    if not all(math.isfinite(each) for each in values):
        raise UnprobedError("a weight isn't finite")
    if values[_NOTHING] or abs(sum(mixed) - values[_MIXTURE]) > _ROUNDING * size:
        raise UnprobedError("its step isn't a weighted sum")
    found = [(column, each) for column, each in enumerate(values[:WIDTH]) if each]
    return tuple(sorted(found, key=lambda each: each[1] != 1.0))


def _read(
    twin: Any,
    changes: _Changes,
    output: Any,
    watch: _Watch,
    places: dict[Place, int],
) -> Step:
    """The step just made; `places` then says which slot stock keeps where."""
    kept = {place: _weights(vector) for place, vector in _vectors(twin)}
    writes = _allot(kept, places)
    result, *beside = (_weights(each) for each in output.values())
    if any(column >= FIRST_SLOT for weights in beside for column, _ in weights):
        raise UnprobedError("what it returns beside the sample depends on earlier steps")
    return Step(
        result=result,
        beside=tuple(beside),
        writes=writes,
        clip=watch.clip,
        draws=watch.dtype is not None,
        places=tuple(places.items()),
        after=changes.without({name for name, _ in places}),
    )


def _allot(
    kept: Mapping[Place, Weights], places: dict[Place, int]
) -> tuple[tuple[int, Weights], ...]:
    """Give what is kept its slots: moved values their own, new ones those that are free."""
    places.clear()
    for place, weights in kept.items():
        if len(weights) == 1 and weights[0][0] >= FIRST_SLOT and weights[0][1] == 1.0:
            places[place] = weights[0][0] - FIRST_SLOT
    free = [slot for slot in range(SLOTS) if slot not in places.values()]
    written: dict[Weights, int] = {}
    for place, weights in kept.items():
        if place not in places:
            if weights not in written and (not free or len(written) == WRITES):
                raise UnprobedError("it keeps more than the table has room for")
            if weights not in written:
                written[weights] = free.pop(0)
            places[place] = written[weights]
    return tuple((slot, weights) for weights, slot in written.items())


def _vectors(twin: Any) -> Iterator[tuple[Place, torch.Tensor]]:
    """The probing tensors that a scheduler has kept, and where."""
    for name, value in twin.__dict__.items():
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, each in items:
            if isinstance(each, torch.Tensor) and each.shape == _SHAPE:
                yield (name, index), each


def _put(twin: Any, place: Place, value: torch.Tensor) -> None:
    name, index = place
    if index is None:
        setattr(twin, name, value)
    else:
        twin.__dict__[name][index] = value
