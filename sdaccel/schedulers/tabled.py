"""The one way in which all stand-ins make a step, whatever the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from .guided import Guided, Late
from .program import Options
from .results import Pair
from .tables import Tables, tables_of
from .trajectory import Trajectory

APART = ("generator", "return_dict")
"""Arguments of a step on which its weights don't depend."""
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_WHOLE = (int, torch.IntTensor, torch.LongTensor)

if TYPE_CHECKING:
    _Stock = Any
else:
    _Stock = object


class Tabled(_Stock):
    """Stands before a stock scheduler class, and makes its steps from a table of weights.

    `_remembers`: stock keeps tensors from step to step. `_reads_timestep`: stock's step depends on
    the timestep that it is given, and not on the step index alone. `_refuses_whole`: it raises for
    whole timesteps. `_defaults` are the step's own options.
    """

    _stock: ClassVar[type]
    _remembers: ClassVar[bool]
    _reads_timestep: ClassVar[bool]
    _refuses_whole: ClassVar[bool]
    _names: ClassVar[tuple[str, ...]]
    _defaults: ClassVar[Mapping[str, Any]]

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """As stock; the new schedule is read."""
        super().set_timesteps(*args, **kwargs)
        tables_of(self).renew(self, self._stock)

    def step(self, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        """As stock, from the table; where that can't be, stock's own, with the reason told."""
        options = {**dict(zip(self._names, args, strict=False)), **kwargs} if args else kwargs
        guided = model_output if isinstance(model_output, Guided) else None
        if guided is not None:
            model_output = guided.conditional
        elif isinstance(model_output, Late):
            model_output = model_output.value()
        if self._refuses_whole and isinstance(timestep, _WHOLE):
            return super().step(_whole(model_output, guided), timestep, sample, **options)
        tables = tables_of(self)
        ready = tables.trajectory
        if ready is None or not self._is_next(
            ready, tables, model_output, timestep, sample, options
        ):
            found = self._prepare(tables, model_output, timestep, sample, options)
            if isinstance(found, str):
                tables.fall_back(self, found)
                return super().step(_whole(model_output, guided), timestep, sample, **options)
            ready = found
        if guided is not None:
            tables.ran["guided predictions combined"] += 1
            model_output, guided = ready.combining(guided)
        now, noise = ready.step(), None
        if now.draws:
            noise = _draw(model_output, options.get("generator"), ready.dtypes.noise)
        result = ready.advance(now, sample, model_output, noise, guided)
        tables.fresh = False
        tables.ran["steps from the table"] += 1
        if now.after:
            self.__dict__.update(now.after)
        beside = ready.beside if guided is None else partial(ready.beside, guided=guided)
        if options.get("return_dict", True):
            values = (result, *beside(now, sample, model_output, noise))
            return ready.program.output(**dict(zip(ready.program.names, values, strict=True)))
        if not now.beside:
            return (result,)
        return Pair(result, beside, now, (sample, model_output, noise))

    def _is_next(
        self,
        ready: Trajectory,
        tables: Tables,
        model_output: Any,
        timestep: Any,
        sample: Any,
        options: Mapping[str, Any],
    ) -> bool:
        """Whether a step is the next of its trajectory, with inputs as before: the usual case."""
        if not ready.takes(sample, model_output, options) or not tables.describes(self):
            return False
        if self._reads_timestep and not tables.lies_at(timestep, ready.position):
            return False
        index: int | None = self.__dict__.get("_step_index", ready.position)
        return index == ready.position

    def _init_step_index(self, timestep: Any) -> None:
        """As stock, from the schedule on the host, so that the host need not wait for a device."""
        tables, place = tables_of(self), None
        if self.begin_index is None and tables.schedule is not None and tables.describes(self):
            place = tables.position_of(timestep)
        if place is None or tables.schedule is None:
            super()._init_step_index(timestep)
            return
        timesteps = tables.schedule.state["timesteps"]
        self._step_index = self.index_for_timestep(timesteps[place], timesteps)

    def _prepare(
        self,
        tables: Tables,
        model_output: Any,
        timestep: Any,
        sample: Any,
        options: Mapping[str, Any],
    ) -> Trajectory | str:
        """The trajectory at the step to be made, or why stock has to make it."""
        obstacle = _obstacle(model_output, sample) or self._unserved(options)
        if obstacle is not None:
            return obstacle
        if tables.schedule is None:
            return "its schedule was not set by set_timesteps"
        if not tables.describes(self):
            return "its schedule was changed since set_timesteps"
        position = self._position(tables, timestep)
        if isinstance(position, str):
            return position
        key = tuple((name, options.get(name, each)) for name, each in self._defaults.items())
        ready = tables.trajectory
        if (
            ready is None
            or ready.key != key
            or ready.shape != sample.shape
            or ready.device != sample.device
            or (self._remembers and ready.position != position)
        ):
            found = self._begin(tables, position, key, sample, model_output)
            if isinstance(found, str):
                return found
            ready = found
        start, kinds = ready.program.start, (sample.dtype, model_output.dtype)
        ready.expect(position, kinds, options, tables.schedule.dtypes_for(start, key, *kinds))
        return ready

    def _begin(
        self,
        tables: Tables,
        position: int,
        key: Options,
        sample: torch.Tensor,
        model_output: torch.Tensor,
    ) -> Trajectory | str:
        if self._remembers and not tables.fresh:
            return tables.left or "its inputs or options have changed in the middle of a schedule"
        assert tables.schedule is not None
        program = tables.schedule.program(position if self._remembers else 0, key)
        if isinstance(program, str):
            return program
        tables.trajectory = Trajectory(program, key, sample, model_output)
        return tables.trajectory

    def _position(self, tables: Tables, timestep: Any) -> int | str:
        """The index in the schedule of the step to be made."""
        place = tables.position_of(timestep) if self._reads_timestep else 0
        if place is None:
            return "its timestep is none of the schedule's"
        if "_step_index" not in self.__dict__:
            return place
        if self._step_index is None:
            self._init_step_index(timestep)
        index: int = self._step_index
        if self._reads_timestep and place != index:
            return "its timestep is not the next of the schedule's"
        assert tables.schedule is not None
        return index if 0 <= index < len(tables.schedule) else "the schedule is over"

    def _unserved(self, options: Mapping[str, Any]) -> str | None:
        for name, value in options.items():
            if name not in self._names:
                return f"it has no argument {name}"
            if name not in APART and value is not None and not isinstance(value, (int, float)):
                return f"its {name} is no plain number"
        return None


def scale_model_input(self: Any, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
    """As stock, by a factor that is computed once."""
    tables = tables_of(self)
    if self._step_index is None:
        self._init_step_index(timestep)
    schedule, index = tables.schedule, self._step_index
    if schedule is None or not tables.describes(self) or not 0 <= index < len(schedule):
        return self._stock.scale_model_input(self, sample, timestep)  # type: ignore[no-any-return]
    self.is_scale_input_called = True
    return sample * schedule.scale(index)


def _whole(model_output: Any, guided: Guided | None) -> Any:
    """The prediction as stock takes it."""
    return model_output if guided is None else guided.value()


def _draw(model_output: torch.Tensor, generator: Any, dtype: Any) -> torch.Tensor:
    from diffusers.utils.torch_utils import randn_tensor

    shape, device = model_output.shape, model_output.device
    noise: torch.Tensor = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
    return noise


def _obstacle(model_output: Any, sample: Any) -> str | None:
    """Why tensors can't be added up here, or None."""
    if type(model_output) is not torch.Tensor or type(sample) is not torch.Tensor:
        return "its inputs are no plain tensors"
    if model_output.shape != sample.shape or model_output.device != sample.device:
        return "prediction and sample differ in shape or device"
    if sample.dtype not in _FLOATS or model_output.dtype not in _FLOATS:
        return "its inputs are neither fp32 nor 16-bit"
    if torch.is_grad_enabled() and (model_output.requires_grad or sample.requires_grad):
        return "a gradient is asked for"
    return None
