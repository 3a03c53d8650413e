"""The one source of truth for which generation, which step, and which call within the step.

The scheduler's `set_timesteps` begins a generation and its `step` ends a step; the denoiser's calls
are counted in between. So it works for every pipeline, with batched guidance (one call a step) and
sequential guidance (two), and a generation that was interrupted is forgotten when the next begins.
Reading or driving the clock never makes the host wait for the device.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .patch import Patch, same_name_subclass

if TYPE_CHECKING:
    from .target import Component

_CLOCKS = "_sdaccel_clocks"


@dataclass
class Clock:
    """Where a pipe's generation stands.

    `generation` counts from 1 (0: none yet), `step` from 0 within the generation, `step_calls`
    the calls of each component since the last step, `calls` all of them since acceleration.
    `running` is true inside the pipe's `__call__`, `last_sample` holds the newest latents and
    `checks` pending truth values on the device, both for one look at the end. `listeners` are
    called whenever a generation begins, `end_listeners` when the pipe's call is over.
    """

    generation: int = 0
    step: int = 0
    running: bool = False
    calls: Counter[str] = field(default_factory=Counter)
    step_calls: Counter[str] = field(default_factory=Counter)
    last_sample: Any = None
    checks: list[Any] = field(default_factory=list)
    listeners: list[Callable[[], None]] = field(default_factory=list)
    end_listeners: list[Callable[[], None]] = field(default_factory=list)
    _scheduler: Any = None
    _first: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Clock:
        """A copied scheduler gets its own clock: some pipelines copy theirs for a second use."""
        return Clock()

    @property
    def scheduler(self) -> Any:
        """The scheduler of the generation that is under way; None outside one."""
        return self._scheduler

    @property
    def total_steps(self) -> int | None:
        """The steps of this generation, img2img's shortened schedules included; None outside one.

        Known for sure from the first call of the denoiser on.
        """
        if self._scheduler is None:
            return None
        first = self._first
        if first is None:
            first = getattr(self._scheduler, "begin_index", None) or 0
        return len(self._scheduler.timesteps) - first

    def begin(self, scheduler: Any) -> None:
        """A generation begins: called by the scheduler's `set_timesteps`."""
        if self.step == 0 and self._scheduler is scheduler and not self.step_calls:
            return
        self.generation += 1
        self.step = 0
        self.step_calls.clear()
        self.last_sample = None
        self._scheduler = scheduler
        self._first = None
        for listener in self.listeners:
            listener()

    def tick(self, sample: Any) -> None:
        """A step ends with these latents: called by the scheduler's `step`."""
        self.step += 1
        self.step_calls.clear()
        self.last_sample = sample

    def count(self, name: str, timestep: Any = None) -> None:
        """A component is about to be called: called by its forward pre-hook."""
        self.calls[name] += 1
        self.step_calls[name] += 1
        self.locate(timestep)

    def locate(self, timestep: Any) -> int:
        """Where in the scheduler's timesteps this step stands, as far as its address tells it."""
        if self._first is None and self._scheduler is not None:
            self._first = _position(self._scheduler.timesteps, timestep)
        first = self._first
        if first is None:
            first = getattr(self._scheduler, "begin_index", None) or 0
        return first + self.step

    def forget(self) -> None:
        """The pipe's call is over, or was interrupted: hold on to no latents."""
        for listener in self.end_listeners:
            listener()
        self.last_sample = None
        self.checks.clear()
        self.running = False
        self._scheduler = None


def attach_scheduler(clock: Clock, scheduler: Any, patch: Patch) -> None:
    """Let `scheduler` drive `clock`, beside the clocks of other pipes that share it."""
    clocks = scheduler.__dict__.get(_CLOCKS)
    if clocks is None:
        with patch.scope(scheduler):
            clocks = []
            patch.set(scheduler, _CLOCKS, clocks)
            stock: Any = type(scheduler)
            patch.set_class(scheduler, _clocked(stock))
    _join(clocks, clock, patch)


def attach_module(clock: Clock, component: Component, patch: Patch) -> None:
    """Let `clock` count the calls of a component, beside the clocks of pipes that share it."""
    entry = component.entry
    clocks = entry.__dict__.get(_CLOCKS)
    if clocks is None:
        clocks = []
        with patch.scope(component.module):
            patch.set(entry, _CLOCKS, clocks)
            shared = clocks

            def count(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if _is_traced():  # a graph that counts is compiled anew at every count
                    return
                timestep = kwargs.get("timestep", args[1] if len(args) > 1 else None)
                for each in _listening(shared):
                    each.count(component.name, timestep)

            patch.add_handle(entry.register_forward_pre_hook(count, with_kwargs=True))
    _join(clocks, clock, patch)


def _is_traced() -> bool:
    import torch

    return torch.compiler.is_compiling()


def _join(clocks: list[Clock], clock: Clock, patch: Patch) -> None:
    patch.on_undo(lambda: _leave(clocks, clock))
    clocks.append(clock)


def _leave(clocks: list[Clock], clock: Clock) -> None:
    clocks[:] = [each for each in clocks if each is not clock]


def _position(timesteps: Any, timestep: Any) -> int | None:
    """Where in `timesteps` the view `timestep` lies, read from its address: no value, no sync."""
    try:
        if timestep.untyped_storage().data_ptr() != timesteps.untyped_storage().data_ptr():
            return None
        offset = timestep.storage_offset() - timesteps.storage_offset()
        return int(offset // timesteps.stride(0))
    except (AttributeError, RuntimeError, ZeroDivisionError):
        return None


def _listening(clocks: list[Clock]) -> list[Clock]:
    """The clock of the pipe that is running; in a loop written by hand, all that are attached."""
    return [each for each in clocks if each.running] or clocks


@functools.cache
def _clocked(scheduler_class: Any) -> type:
    """A scheduler class of the same name that also drives the clocks attached to the instance."""

    @functools.wraps(scheduler_class.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = scheduler_class.set_timesteps(self, *args, **kwargs)
        for clock in _listening(self.__dict__.get(_CLOCKS, [])):
            clock.begin(self)
        return result

    @functools.wraps(scheduler_class.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = scheduler_class.step(self, *args, **kwargs)
        sample = result[0] if isinstance(result, tuple) else result.prev_sample
        for clock in _listening(self.__dict__.get(_CLOCKS, [])):
            clock.tick(sample)
        return result

    return same_name_subclass(scheduler_class, {"set_timesteps": set_timesteps, "step": step})
