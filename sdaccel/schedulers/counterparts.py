"""The stand-ins by the stock classes that they stand in for."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from .tabled import APART, Tabled, scale_model_input

_ARGUMENTS = ("self", "model_output", "timestep", "sample")


@dataclass(frozen=True)
class Kind:
    """What a stand-in has to know of its stock class beforehand; see `Tabled`."""

    remembers: bool = False
    reads_timestep: bool = False
    refuses_whole: bool = False
    scales_input: bool = False


KINDS = {
    "DDIMScheduler": Kind(reads_timestep=True),
    "DDPMScheduler": Kind(reads_timestep=True),
    "DPMSolverMultistepScheduler": Kind(remembers=True),
    "EulerAncestralDiscreteScheduler": Kind(refuses_whole=True, scales_input=True),
    "EulerDiscreteScheduler": Kind(refuses_whole=True, scales_input=True),
    "FlowMatchEulerDiscreteScheduler": Kind(refuses_whole=True),
    "FlowMatchHeunDiscreteScheduler": Kind(remembers=True, refuses_whole=True),
    "HeunDiscreteScheduler": Kind(remembers=True, scales_input=True),
    "LCMScheduler": Kind(reads_timestep=True),
    "TCDScheduler": Kind(reads_timestep=True),
    "UniPCMultistepScheduler": Kind(remembers=True),
}


def counterpart_of(stock: Any) -> Any | None:
    """The stand-in for a stock class, or None; a subclass of it under the same name."""
    import diffusers

    name = getattr(stock, "__name__", "")
    if name not in KINDS or getattr(diffusers, name, None) is not stock:
        return None
    return _make(stock)


def obstacle_of(scheduler: Any) -> str | None:
    """Why a scheduler's configuration can't be served from a table, in half a sentence, or None."""
    if scheduler.config.get("thresholding"):
        return "thresholding looks at the values, so its step is no weighted sum"
    if scheduler.config.get("solver_p") is not None:
        return "solver_p hands the step to another scheduler"
    return None


@functools.cache
def _make(stock: Any) -> Any:
    kind = KINDS[stock.__name__]
    parameters = inspect.signature(stock.step).parameters
    names = tuple(name for name in parameters if name not in _ARGUMENTS)
    members: dict[str, Any] = {
        "__module__": stock.__module__,
        "__qualname__": stock.__qualname__,
        "__doc__": stock.__doc__,
        "_stock": stock,
        "_remembers": kind.remembers,
        "_reads_timestep": kind.reads_timestep,
        "_refuses_whole": kind.refuses_whole,
        "_names": names,
        "_defaults": {name: parameters[name].default for name in names if name not in APART},
        "step": _signed(stock.step, Tabled.step),
        "set_timesteps": _signed(stock.set_timesteps, Tabled.set_timesteps),
    }
    if kind.scales_input:
        members["scale_model_input"] = _signed(stock.scale_model_input, scale_model_input)
    return type(stock)(stock.__name__, (Tabled, stock), members)


def _signed(stock: Any, own: Any) -> FunctionType:
    """A copy of our method with the signature and docstring of stock's: pipelines read the former.

    A copy, since a wrapper would be one more call at each step.
    """
    twin = FunctionType(own.__code__, own.__globals__, own.__name__, None, own.__closure__)
    functools.update_wrapper(twin, stock)
    return twin
