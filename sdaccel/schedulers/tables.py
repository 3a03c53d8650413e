"""What a scheduler's stand-in remembers: its schedule on the host, and the programs of it."""

from __future__ import annotations

import copy
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import SdaccelWarning
from .probe import Dtypes, UnprobedError, dtypes_of, probe, scale_of
from .program import Options, Program
from .results import version_of
from .trajectory import Trajectory

STATE = "_sdaccel_tables"
_CONFIG, _SCHEDULE = "_internal_dict", ("timesteps", "sigmas", "alphas_cumprod")
"""Under which names a stock scheduler has its configuration, and what its weights are made of."""
_SCHEDULES = 8
"""Schedules whose programs are kept; the least recently used goes."""
_PROGRAMS = 32
"""Programs of one schedule that are kept, for its starts and options; the oldest goes."""


@dataclass
class Schedule:
    """A stock scheduler's `__dict__` after `set_timesteps`, on the CPU, and its programs by start.

    A program that can't be had is kept as the reason.
    """

    stock: type
    state: Mapping[str, Any]
    programs: dict[tuple[int, Options], Program | str] = field(default_factory=dict)
    dtypes: dict[Any, Dtypes] = field(default_factory=dict)
    scales: dict[int, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.state["timesteps"])

    def program(self, start: int, options: Options) -> Program | str:
        """The program from a step on, probed when it is first asked for; or why there is none."""
        key = (start, options)
        if key not in self.programs:
            while len(self.programs) >= _PROGRAMS:
                del self.programs[next(iter(self.programs))]
            self.programs[key] = self._probe(start, options)
        return self.programs[key]

    def dtypes_for(
        self, start: int, options: Options, sample: torch.dtype, prediction: torch.dtype
    ) -> Dtypes:
        """What dtypes stock gives for those of the inputs."""
        key = (start, options, sample, prediction)
        if key not in self.dtypes:
            given = dict(options)
            found = dtypes_of(self.stock, self.state, start, given, sample, prediction)
            self.dtypes[key] = found
        return self.dtypes[key]

    def scale(self, position: int) -> float:
        """What `scale_model_input` multiplies by before the step at a position."""
        if position not in self.scales:
            self.scales[position] = scale_of(self.stock, self.state, position)
        return self.scales[position]

    def _probe(self, start: int, options: Options) -> Program | str:
        try:
            return probe(self.stock, self.state, start, dict(options))
        except UnprobedError as error:
            return str(error)


@dataclass
class Tables:
    """One stand-in's schedule and trajectory, and what it has served and left to stock.

    `fresh` until the first step of a schedule has been made; `left` says why this schedule was left
    to stock, if it was. `ran` counts the steps, `note` is told
    why stock had to make one.
    """

    ran: Counter[str] = field(default_factory=Counter)
    note: Callable[[str], None] | None = None
    schedule: Schedule | None = None
    trajectory: Trajectory | None = None
    fresh: bool = False
    left: str | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    _library: OrderedDict[Any, Schedule] = field(default_factory=OrderedDict)
    _read: tuple[tuple[str, torch.Tensor, int], ...] = ()
    _config: Any = None
    _positions: dict[float, int] = field(default_factory=dict)
    _address: int = 0
    _stride: int = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Tables:
        """For a copied scheduler: the same schedule and place, with tensors and counts of its own.

        Some pipelines copy a scheduler, or its `__dict__`, in the middle of a schedule.
        """
        twin = Tables(schedule=self.schedule, fresh=self.fresh, left=self.left)
        twin.trajectory = copy.deepcopy(self.trajectory, memo)
        twin._library = self._library.copy()
        if self.schedule is not None:
            read = {_CONFIG: self._config, **{name: each for name, each, _ in self._read}}
            twin._read_in({name: copy.deepcopy(each, memo) for name, each in read.items()})
        return twin

    def renew(self, scheduler: Any, stock: type) -> None:
        """`set_timesteps` has run: read the new schedule, the one time that the host waits."""
        state = _on_the_host(scheduler)
        key = (stock, _fingerprint(state))
        schedule = self._library.pop(key, None) or Schedule(stock, state)
        self._library[key] = schedule
        while len(self._library) > _SCHEDULES:
            self._library.popitem(last=False)
        self.schedule, self.trajectory, self.fresh, self.left = schedule, None, True, None
        self._read_in(scheduler.__dict__)

    def _read_in(self, own: Mapping[str, Any]) -> None:
        """Note what holds the schedule, and how to find a timestep in it."""
        self._config = own[_CONFIG]
        read = [(name, own[name]) for name in _SCHEDULE if name in own]
        self._read = tuple((name, each, version_of(each)) for name, each in read)
        timesteps = own["timesteps"]
        in_a_row = timesteps.stride() == (1,)
        self._address, self._stride = timesteps.data_ptr(), in_a_row * timesteps.element_size()
        assert self.schedule is not None
        values = self.schedule.state["timesteps"].tolist()
        self._positions = {value: index for index, value in reversed(list(enumerate(values)))}

    def describes(self, scheduler: Any) -> bool:
        """Whether the scheduler's schedule and configuration still are those that were read."""
        own = scheduler.__dict__
        if own.get(_CONFIG) is not self._config and not self._takes_config(own.get(_CONFIG, {})):
            return False
        for name, tensor, version in self._read:
            if own.get(name) is not tensor or (version >= 0 and tensor._version != version):
                return False
        return True

    def _takes_config(self, now: Mapping[str, Any]) -> bool:
        """Whether a new configuration says the same; `from_config` notes what it leaves unused."""
        same = all(
            repr(now.get(name)) == repr(value)
            for name, value in self._config.items()
            if not name.startswith("_")
        )
        if same:
            self._config = now
        return same

    def lies_at(self, timestep: Any, position: int) -> bool:
        """Whether a timestep is the view of the schedule at a position."""
        return (
            isinstance(timestep, torch.Tensor)
            and timestep.data_ptr() == self._address + position * self._stride
            and self._stride > 0
            and position < len(self._read[0][1])
            and timestep.device == self._read[0][1].device
        )

    def position_of(self, timestep: Any) -> int | None:
        """Where in the schedule a timestep lies, without asking the device; None: not in it.

        A view of the schedule is known by its address, a value on the host by itself.
        """
        if not isinstance(timestep, torch.Tensor):
            return self._positions.get(timestep) if isinstance(timestep, (int, float)) else None
        if timestep.dim():
            return None
        timesteps = self._read[0][1]
        if self._stride and timestep.device == timesteps.device:
            place, rest = divmod(timestep.data_ptr() - self._address, self._stride)
            if not rest and 0 <= place < len(timesteps) and timestep.dtype == timesteps.dtype:
                return int(place)
        if timestep.device.type != "cpu":
            return None
        return self._positions.get(timestep.item())

    def fall_back(self, scheduler: Any, reason: str) -> None:
        """Stock makes this step: it is given its state back, and the reason is told once."""
        self.spill(scheduler)
        self.fresh, self.left = False, reason
        self.ran["steps made by stock"] += 1
        sentence = f"{type(scheduler).__name__} takes stock's own step: {reason}."
        if not self.reasons[reason]:
            if self.note is not None:
                self.note(sentence)
            warnings.warn(sentence, SdaccelWarning, stacklevel=4)
        self.reasons[reason] += 1

    def spill(self, scheduler: Any) -> None:
        """Put what the trajectory has kept where stock would have it, and end the trajectory."""
        trajectory, self.trajectory = self.trajectory, None
        if trajectory is None or trajectory.position == trajectory.program.start:
            return
        last = trajectory.program.steps[trajectory.position - trajectory.program.start - 1]
        for (name, index), slot in last.places:
            if index is None:
                setattr(scheduler, name, trajectory.slot(slot))
            else:
                getattr(scheduler, name)[index] = trajectory.slot(slot)


def tables_of(scheduler: Any) -> Tables:
    """A stand-in's tables, made when they are first asked for."""
    found: Tables | None = scheduler.__dict__.get(STATE)
    if found is None:
        found = Tables()
        setattr(scheduler, STATE, found)
    return found


def _on_the_host(scheduler: Any) -> dict[str, Any]:
    """A scheduler's `__dict__`, but for methods that somebody wraps: a probe calls stock's."""
    state: dict[str, Any] = {}
    for name, value in scheduler.__dict__.items():
        if name.startswith("_sdaccel") or callable(getattr(type(scheduler), name, None)):
            continue
        if isinstance(value, torch.Tensor):
            state[name] = value.detach().to("cpu", copy=True)
        else:
            state[name] = list(value) if isinstance(value, list) else value
    return state


def _fingerprint(state: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (name, value.dtype, value.numpy().tobytes())
        if isinstance(value, torch.Tensor)
        else (name, repr(value))
        for name, value in state.items()
    )
