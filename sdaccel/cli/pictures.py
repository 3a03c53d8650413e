"""Where pictures and clips are written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import video
from ..errors import InputError

if TYPE_CHECKING:
    from .drawing import Drawing

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def check_output(path: Path) -> None:
    """Raise `InputError` where nothing could be written; before hours are spent drawing it."""
    folder = path.resolve().parent
    if path.suffix.lower() not in PICTURES + video.ENDINGS:
        raise InputError(
            f"'{path}' names no picture and no clip: let it end in {', '.join(PICTURES)} or "
            f"{', '.join(video.ENDINGS)}."
        )
    if not folder.is_dir():
        raise InputError(f"The folder {folder} doesn't exist: make it first, or write elsewhere.")
    if path.is_dir():
        raise InputError(f"'{path}' is a folder: give the name of a file.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"'{path}' can't be written: choose another place with --output.")


def check_kind(path: Path, fps: float | None, model: str) -> None:
    """Raise `InputError` for a picture's path where `model` makes clips, or the other way round.

    `fps` is the rate of the clips that it makes, None for a model that makes pictures.
    """
    is_picture = path.suffix.lower() in PICTURES
    if fps is None and not is_picture:
        raise InputError(
            f"{model} makes pictures, and '{path}' names a clip: let it end in "
            f"{', '.join(PICTURES)}."
        )
    if fps is not None and is_picture:
        raise InputError(
            f"{model} makes clips, and '{path}' names a picture: let it end in "
            f"{' or '.join(video.ENDINGS)}."
        )
    if fps is not None:
        video.check_writable(path, fps)


def save(drawings: Sequence[Drawing], path: Path, fps: float | None) -> list[Path]:
    """Write one drawing to `path`, or several to `path` with -1, -2, ... before the ending.

    `fps` is the rate of clips, and None for pictures.
    """
    path = path.resolve()
    if len(drawings) == 1:
        paths = [path]
    else:
        paths = [path.with_stem(f"{path.stem}-{index}") for index in range(1, len(drawings) + 1)]
    for drawing, each in zip(drawings, paths, strict=True):
        if isinstance(drawing, list):
            video.write_video(drawing, each, fps or video.FPS)
        else:
            drawing.save(each)
    return paths
