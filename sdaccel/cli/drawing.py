"""Draw one request with a pipe, and take the time.

A drawing is a picture, or a clip: a list of pictures.
"""

from __future__ import annotations

import contextlib
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import InputError, SdaccelWarning
from ..video import as_pictures
from .limits import frames_argument

if TYPE_CHECKING:
    from PIL.Image import Image

    from .request import Request

Drawing: TypeAlias = "Image | list[Image]"

WARM_UP_STEPS = 2
# Where pipelines for clips keep them: Cosmos 3 in `video`, Text2Video-Zero in `images`.
_CLIPS = ("frames", "video", "images")
_SOUNDS = ("audio", "sound")


def draw(pipe: Any, request: Request, name: str | None) -> tuple[list[Drawing], float]:
    """The drawings and the seconds they took; diffusers' progress bar goes under `name`."""
    output, seconds = call(pipe, request.arguments(pipe), name)
    if not frames_argument(pipe):
        return list(output.images), seconds
    return [as_pictures(clip) for clip in clips_of(output)], seconds


def call(pipe: Any, arguments: dict[str, Any], name: str | None) -> tuple[Any, float]:
    """What the pipeline returns and the seconds it took; the device is idle at both ends.

    diffusers' progress bar shows the steps, under `name`; without one it is hidden. Raises
    `InputError` for arguments that the pipeline's own check refuses.
    """
    with _progress_bar(pipe, name):
        _synchronize()
        start = time.perf_counter()
        try:
            output = pipe(**arguments)
        except (ValueError, TypeError) as error:
            if _checked_by_pipeline(error):
                raise InputError(f"{type(pipe).__name__} refuses this: {error}") from error
            raise
        _synchronize()
    return output, time.perf_counter() - start


def warm_up(pipe: Any, request: Request) -> float:
    """The seconds of a first drawing with few steps and no progress bar: here compiling happens."""
    brief = replace(request, steps=min(WARM_UP_STEPS, request.step_count))
    return draw(pipe, brief, None)[1]


def clips_of(output: Any) -> list[Any]:
    """The clips in what a pipeline returned, each a list of pictures or an array (T, H, W, C).

    It may be a batch of clips or one clip alone. A warning tells of sound.
    """
    frames = next(getattr(output, name) for name in _CLIPS if hasattr(output, name))
    if any(getattr(output, name, None) is not None for name in _SOUNDS):
        warnings.warn("The clip's sound is not written.", SdaccelWarning, stacklevel=2)
    first = frames[0]
    alone = hasattr(first, "convert") or getattr(first, "ndim", 4) == 3
    return [frames] if alone else list(frames)


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
