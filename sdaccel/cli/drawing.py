"""Draw one request with a pipe, and take the time."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from .request import Request

WARM_UP_STEPS = 2


def draw(pipe: Any, request: Request, name: str | None) -> tuple[list[Image], float]:
    """The pictures and the seconds they took; the device is idle at both ends.

    diffusers' progress bar shows the steps, under `name`; without one it is hidden. Raises
    `InputError` for arguments that the pipeline's own check refuses.
    """
    arguments = request.arguments(pipe)
    with _progress_bar(pipe, name):
        _synchronize()
        start = time.perf_counter()
        try:
            images: list[Image] = pipe(**arguments).images
        except (ValueError, TypeError) as error:
            if _checked_by_pipeline(error):
                raise InputError(f"{type(pipe).__name__} refuses this: {error}") from error
            raise
        _synchronize()
    return images, time.perf_counter() - start


def warm_up(pipe: Any, request: Request) -> float:
    """The seconds of a first drawing with few steps and no progress bar: here compiling happens."""
    brief = replace(request, steps=min(WARM_UP_STEPS, request.step_count))
    return draw(pipe, brief, None)[1]


@contextlib.contextmanager
def _progress_bar(pipe: Any, name: str | None) -> Iterator[None]:
    """Name or hide diffusers' progress bar for one drawing; a hidden bar stays hidden."""
    before = getattr(pipe, "_progress_bar_config", None)
    named, hidden = {"desc": name, "leave": False}, {"disable": name is None}
    pipe.set_progress_bar_config(**{**named, **hidden, **(before or {})})
    try:
        yield
    finally:
        if before is None:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = before


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _checked_by_pipeline(error: BaseException) -> bool:
    """Whether the pipeline's `check_inputs` raised this, rather than the computation."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.name == "check_inputs" for frame in frames)
