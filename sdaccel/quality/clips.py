"""How far two clips are apart in time: their motion and their flicker. Clips are (T, H, W, C).

There is no warping error (Lai et al. 2018): it takes an optical flow, and without a network's
weights that would be a block match, which is arbitrary on the flat surfaces of drawn scenes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MetricError
from .pixels import as_pair

if TYPE_CHECKING:
    import numpy


def motion_error(first: Any, second: Any) -> float:
    """Root mean square of the difference between both clips' changes from frame to frame.

    sqrt(mean(((b[t+1] - b[t]) - (a[t+1] - a[t]))^2)), 0 to 2, 0 for equal clips and for clips that
    differ by a still picture. Raises `MetricError` for fewer than two frames or other sizes.
    """
    import numpy

    a, b = _clips(first, second, 2)
    apart = numpy.diff(b - a, axis=0)
    return float(numpy.sqrt(numpy.mean(apart**2, dtype=numpy.float64)))


def motion_kept(first: Any, second: Any) -> float:
    """How alike the amounts of change are, min(r, 1/r) for r = mean|diff b| / mean|diff a|.

    0 to 1: 1 for as much change from frame to frame, 0 for a frozen clip beside a moving one, 0.5
    for half or double. Raises `MetricError` for fewer than two frames or other sizes.
    """
    import numpy

    a, b = _clips(first, second, 2)
    changes = [
        float(numpy.abs(numpy.diff(each, axis=0)).mean(dtype=numpy.float64)) for each in (a, b)
    ]
    return min(changes) / max(changes) if max(changes) else 1.0


def added_flicker(first: Any, second: Any) -> float:
    """How much more the second clip flickers than the first; below 0 where it flickers less.

    Flicker is the mean of |x[t-1] - 2 x[t] + x[t+1]| / 4, 0 to 1: what goes up and down again, not
    what changes steadily. Raises `MetricError` for fewer than three frames or other sizes.
    """
    a, b = _clips(first, second, 3)
    return _flicker(b) - _flicker(a)


def _flicker(frames: numpy.ndarray) -> float:
    import numpy

    return float(numpy.abs(numpy.diff(frames, n=2, axis=0)).mean(dtype=numpy.float64) / 4)


def _clips(first: Any, second: Any, least: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    a, b = as_pair(first, second)
    if len(a) < least:
        raise MetricError(f"This needs clips of at least {least} frames.")
    return a, b
