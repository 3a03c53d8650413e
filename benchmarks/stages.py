"""Where a generation's time goes: text encoding, denoiser, scheduler, VAE, and all the rest.

Each stage waits for the device at both ends, which costs what runs ahead of it: stages are measured
in calls of their own, never in those that are timed, and their sum may exceed a timed call.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from sdaccel.target import kind_of

from . import measure, samples

TEXT, DENOISER, SCHEDULER, VAE = "text encoding", "denoiser", "scheduler", "VAE"
OTHER = "guidance and other"
"""Guidance, noise, conversions, and what the pipeline's own Python takes."""
STAGES = (TEXT, DENOISER, SCHEDULER, VAE, OTHER)
_CALLS = 3
_SCHEDULER_METHODS = ("set_timesteps", "scale_model_input", "add_noise", "step")
_OF_KIND = {"text_encoder": TEXT, "denoiser": DENOISER}
_ABSENT = object()


@dataclass
class _Watch:
    """Seconds by stage; a stage within a stage counts as the outer one."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES[:-1], 0.0))
    running: bool = False

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to a stage."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.running:
                return function(*args, **kwargs)
            self.running = True
            measure.synchronise()
            start = time.perf_counter()
            try:
                result = function(*args, **kwargs)
                measure.synchronise()
            finally:
                self.seconds[stage] += time.perf_counter() - start
                self.running = False
            return result

        return call


def stage_seconds(pipe: Any, call: measure.Call) -> dict[str, float]:
    """The median seconds of each of `STAGES` over three calls of a generation by this pipe."""
    taken = [_once(pipe, call) for _ in range(_CALLS)]
    return {stage: samples.median([each[stage] for each in taken]) for stage in STAGES}


def _once(pipe: Any, call: measure.Call) -> dict[str, float]:
    with _watched(pipe) as watch:
        _, total = measure.timed(call)
    return {**watch.seconds, OTHER: max(0.0, total - sum(watch.seconds.values()))}


@contextmanager
def _watched(pipe: Any) -> Iterator[_Watch]:
    """The pipe's parts are timed within, from outside whatever was compiled or put in their place.

    A module is entered at `_compiled_call_impl`, which `torch.nn.Module.__call__` looks for first:
    a hook, or a forward of ours, would be traced and compile a compiled module anew.
    """
    import torch

    watch = _Watch()
    with ExitStack() as stack:
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module):
                kind = kind_of(name, type(part))
                if kind == "vae":
                    for method in ("encode", "decode"):
                        _replace(stack, part, method, watch, VAE, getattr(part, method, None))
                elif kind in _OF_KIND:
                    entered = part._compiled_call_impl or part._call_impl
                    _replace(stack, part, "_compiled_call_impl", watch, _OF_KIND[kind], entered)
            elif hasattr(part, "set_timesteps"):
                for method in _SCHEDULER_METHODS:
                    _replace(stack, part, method, watch, SCHEDULER, getattr(part, method, None))
        yield watch


def _replace(
    stack: ExitStack,
    owner: Any,
    name: str,
    watch: _Watch,
    stage: str,
    function: Callable[..., Any] | None,
) -> None:
    """Let an instance's attribute be the timed function until the stack closes."""
    if function is None:
        return
    before = vars(owner).get(name, _ABSENT)
    vars(owner)[name] = watch.timed(stage, function)

    def undo() -> None:
        if before is _ABSENT:
            del vars(owner)[name]
        else:
            vars(owner)[name] = before

    stack.callback(undo)
