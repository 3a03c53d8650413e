"""Pictures and clips as arrays of numbers in 0 to 1.

A picture is (H, W) or (H, W, C), a clip (T, H, W, C), of unsigned bytes or of floats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MetricError

if TYPE_CHECKING:
    import numpy
    import torch


def as_frames(shown: Any) -> numpy.ndarray:
    """A picture or a clip as (T, H, W, C), a picture as a clip of one frame.

    float64 stays so, all else becomes float32: a clip in float64 takes gigabytes. Raises
    `MetricError` for what is neither, and for one without a pixel.
    """
    import numpy

    array = numpy.asarray(shown)
    if array.ndim not in (2, 3, 4) or not array.size:
        raise MetricError(f"A picture is (H, W, C) and a clip (T, H, W, C), not {array.shape}.")
    values = array.astype(numpy.result_type(numpy.float32, array), copy=False)
    if array.dtype == numpy.uint8:
        values = values / numpy.float32(255)
    if array.ndim == 2:
        values = values[..., None]
    return values if array.ndim == 4 else values[None]


def as_pair(first: Any, second: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Both as `as_frames` gives them; raises `MetricError` where their sizes differ."""
    a, b = as_frames(first), as_frames(second)
    if a.shape != b.shape:
        raise MetricError(f"The pictures differ in size: {a.shape} and {b.shape}.")
    return a, b


def as_tensor(frames: numpy.ndarray) -> torch.Tensor:
    """(T, H, W, C) as a float32 tensor (T, C, H, W), a copy, clipped to 0 to 1."""
    import numpy
    import torch

    return torch.from_numpy(numpy.array(frames.clip(0, 1), numpy.float32)).permute(0, 3, 1, 2)


def is_finite(shown: Any) -> bool:
    """Whether no value is NaN or infinite."""
    import numpy

    return bool(numpy.isfinite(as_frames(shown)).all())
