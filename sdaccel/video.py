"""Write frames as a film: H.264 in an .mp4, or an animated .gif.

from sdaccel.video import write_video

write_video(pipe("a fox runs").frames[0], "fox.mp4", fps=16)
"""

from __future__ import annotations

import importlib.util
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

ENDINGS = (".mp4", ".gif")
FPS = 16.0
"""Frames a second where nobody says otherwise: Wan's."""
_FASTEST = {".mp4": 240.0, ".gif": 50.0}
_QUALITY = "17"  # libx264's constant rate factor: no loss that an eye finds


def write_video(frames: Any, path: str | Path, fps: float = FPS) -> Path:
    """Write one clip's frames to `path`, an .mp4 or a .gif, and return the path.

    `frames` are PIL pictures or arrays, or an array (F, H, W, 3), of unsigned bytes or of floats in
    [0, 1], or a tensor (F, 3, H, W) as diffusers gives it for `output_type="pt"`. An .mp4 (H.264,
    4:2:0) has even sides: an odd one is made even by repeating its last line. A .gif loops, counts
    time in hundredths of a second, and holds equal neighbours as one frame that lasts longer.
    Raises `InputError` for frames that are none, for a path, an ending or a rate that can't be
    written, and where an .mp4 is asked for without the extra `video`.
    """
    path = Path(path)
    check_writable(path, fps)
    pictures = as_array(frames)
    film = (_gif if path.suffix.lower() == ".gif" else _mp4)(pictures, fps)
    try:
        path.write_bytes(film)
    except OSError as error:
        raise InputError(f"'{path}' can't be written: choose another place for it.") from error
    return path


def check_writable(path: Path, fps: float) -> None:
    """Raise `InputError` where `write_video` could not write such a file at that rate."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"'{path}' names no clip: let it end in {' or '.join(ENDINGS)}.")
    if not 0 < fps <= _FASTEST[ending]:
        raise InputError(
            f"A {ending} plays above 0 and at most {_FASTEST[ending]:g} frames a second, not {fps}."
        )
    if ending == ".mp4" and not _has_encoder():
        raise InputError(
            'An .mp4 needs the extra "video" (pip install "sdaccel[video]"); a .gif needs nothing.'
        )


def as_array(frames: Any) -> numpy.ndarray:
    """A clip in any of the forms that `write_video` takes, as unsigned bytes (F, H, W, 3)."""
    import numpy

    array = _stacked(frames)
    if array.ndim != 4 or array.shape[-1] != 3 or not array.size:
        raise InputError(f"A clip is frames of RGB, (F, H, W, 3), not {array.shape}.")
    if array.dtype == numpy.uint8:
        return array
    if array.dtype.kind != "f":
        raise InputError(f"Frames are unsigned bytes or floats in [0, 1], not {array.dtype}.")
    if not numpy.isfinite(array).all():
        raise InputError("The frames hold NaN or infinite values: there is nothing to show.")
    return numpy.asarray((array.clip(0, 1) * 255).round(), dtype=numpy.uint8)


def as_pictures(frames: Any) -> list[Image]:
    """A clip in any of the forms that `write_video` takes, as PIL pictures."""
    from PIL import Image

    return [Image.fromarray(each) for each in as_array(frames)]


def _stacked(frames: Any) -> numpy.ndarray:
    """One array of whatever comes, channels last."""
    import numpy

    if hasattr(frames, "detach"):
        frames = frames.detach().movedim(1, -1).cpu()
        # numpy has no bfloat16
        frames = frames.float() if frames.is_floating_point() else frames
    if not isinstance(frames, Sequence):
        return numpy.asarray(frames)
    arrays = [
        numpy.asarray(each.convert("RGB") if hasattr(each, "convert") else each) for each in frames
    ]
    if len({each.shape for each in arrays}) > 1:
        raise InputError("The frames of a clip must all have one size.")
    return numpy.stack(arrays) if arrays else numpy.empty(0)


def _has_encoder() -> bool:
    return all(importlib.util.find_spec(name) for name in ("imageio", "imageio_ffmpeg"))


def _mp4(pictures: numpy.ndarray, fps: float) -> bytes:
    """The film as bytes: ffmpeg's own failure to write a file would go unnoticed."""
    import imageio.v3 as imageio
    import numpy

    _, height, width, _ = pictures.shape
    even = numpy.pad(pictures, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    film: bytes = imageio.imwrite(
        "<bytes>",
        even,
        plugin="FFMPEG",
        extension=".mp4",
        fps=fps,
        codec="libx264",
        pixelformat="yuv420p",
        quality=None,
        macro_block_size=1,
        output_params=["-crf", _QUALITY],
    )
    return film


def _gif(pictures: numpy.ndarray, fps: float) -> bytes:
    """Frame i begins at the hundredth nearest to i / fps, so that no error adds up."""
    from PIL import Image

    begins = [10 * round(100 * index / fps) for index in range(len(pictures) + 1)]
    durations = [after - before for before, after in itertools.pairwise(begins)]
    first, *others = (Image.fromarray(each) for each in pictures)
    film = io.BytesIO()
    first.save(film, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return film.getvalue()
