"""What stands around a call of the pipe: its prompt is text, and its result is finite.

A generation that ends in NaN or Inf is caught once, at its end.

The flags are computed on the device as the values come by and read together when the pipe is done:
one wait for the device a generation, none a step.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .patch import Patch, same_name_subclass

if TYPE_CHECKING:
    from .clock import Clock


def watch(clock: Clock, decoder: Any, patch: Patch) -> None:
    """Have `clock` note whether what a VAE's decoder makes is finite."""

    def note(_: Any, __: Any, output: Any) -> None:
        if clock.running:
            clock.checks.append(_finite(getattr(output, "sample", output)))

    patch.add_handle(decoder.register_forward_hook(note))


def ended_finite(clock: Clock) -> bool:
    """Whether the last latents and all that was decoded are finite; waits for the device once."""
    import torch

    checks = [*clock.checks, _finite(clock.last_sample)]
    flags = [each for each in checks if each is not None]
    return not flags or bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all())


def _finite(value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return None
    return torch.isfinite(value).all()


def check_prompt(pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `InputError` for a prompt that isn't text, before anything is computed."""
    prompt = _argument("prompt", pipe, args, kwargs)
    several = prompt if isinstance(prompt, (list, tuple)) else [prompt]
    for each in several:
        if each is not None and not isinstance(each, (str, list, tuple, dict)):
            raise InputError(
                f"A prompt is text, or a list of texts, not {type(each).__name__}: {each!r:.40}."
            )


def _argument(name: str, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An argument of a pipe's call, however it was passed; None where it was not."""
    bound = inspect.signature(type(pipe).__call__).bind_partial(pipe, *args, **kwargs)
    return bound.arguments.get(name)


class Randomness:
    """The state of every generator that a call draws from, to be able to draw the same again."""

    def __init__(self, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = _argument("generator", pipe, args, kwargs)
        several = given if isinstance(given, (list, tuple)) else [given]
        self._generators = [each for each in several if each is not None]
        self._states = [each.get_state() for each in self._generators]
        self._global = None if self._generators else _global_state()

    def rewind(self) -> None:
        """Put every generator back to where it was."""
        import torch

        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)
        if self._global is not None:
            torch.set_rng_state(self._global[0])
            if self._global[1]:
                torch.cuda.set_rng_state_all(self._global[1])


def _global_state() -> tuple[Any, list[Any]]:
    import torch

    return (
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


@functools.cache
def guarded(pipeline_class: Any) -> type:
    """A pipeline class of the same name whose calls go through the pipe's acceleration."""
    stock_call = pipeline_class.__call__

    @functools.wraps(stock_call)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        acceleration = self.__dict__.get("_sdaccel")
        if acceleration is None:
            return stock_call(self, *args, **kwargs)
        return acceleration.run(stock_call, args, kwargs)

    return same_name_subclass(pipeline_class, {"__call__": __call__})
