"""What is wrong with a picture whatever it is compared with: NaN, one colour, noise.

No metric sees all of these. Two equal black pictures have the best PSNR there is, a score of how a
picture suits its prompt gives noise some number too, and where stock fails on a prompt, an
acceleration that fails as well changes no share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .pixels import as_frames

if TYPE_CHECKING:
    import numpy

FLAT = 0.02
"""The standard deviation, of the channel where it is largest, below which a picture shows nothing:
five of 255 levels. 1,500 drawn scenes have 0.084 and more."""

GRAIN = 0.53
"""The correlation of neighbouring blocks below which a picture is noise. At 16 blocks a side it is
0.56 and more in 1,500 drawn scenes, at most 0.50 in 480 decodings of random latents, and at most
0.10 in 260 pictures of random pixels of 64 to 512 pixels a side."""
_BLOCKS = 16


def fault(shown: Any) -> str | None:
    """Why a picture or a clip (as in `pixels`) can't be anything that was asked for, or None.

    A clip is as good as its worst frame. The reason continues the sentence "the picture ...".
    """
    frames = as_frames(shown)
    for index, frame in enumerate(frames):
        reason = _fault_of_frame(frame)
        if reason is not None:
            return reason + (f" (frame {index})" if len(frames) > 1 else "")
    return None


def _fault_of_frame(frame: numpy.ndarray) -> str | None:
    import numpy

    if not numpy.isfinite(frame).all():
        return "has NaN or Inf in it"
    if float(frame.std((0, 1)).max()) < FLAT:
        bright = float(frame.mean())
        shade = "black" if bright < 0.1 else "white" if bright > 0.9 else "of one colour"
        return f"is {shade} all over"
    correlation = neighbour_correlation(blocks(frame))
    if correlation < GRAIN:
        return f"is noise (neighbouring blocks correlate by {correlation:.2f})"
    return None


def blocks(frame: numpy.ndarray) -> numpy.ndarray:
    """The means of square blocks, about 16 along the shorter side: (H, W, C) -> (h, w, C)."""
    height, width, channels = frame.shape
    side = max(1, min(height, width) // _BLOCKS)
    rows, columns = height // side, width // side
    cut = frame[: rows * side, : columns * side]
    means: numpy.ndarray = cut.reshape(rows, side, columns, side, channels).mean((1, 3))
    return means


def neighbour_correlation(values: numpy.ndarray) -> float:
    """Correlation of each value of (h, w, C) with those below and to the right of it, -1 to 1.

    1 where all values are equal.
    """
    centred = values - values.mean((0, 1))
    variance = float((centred**2).mean())
    if variance == 0 or min(values.shape[:2]) < 2:
        return 1.0
    below = float((centred[1:] * centred[:-1]).mean())
    beside = float((centred[:, 1:] * centred[:, :-1]).mean())
    return (below + beside) / 2 / variance
