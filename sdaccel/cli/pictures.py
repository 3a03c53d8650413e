"""Where pictures are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_KINDS = (".png", ".jpg", ".jpeg", ".webp")


def check_output(path: Path) -> None:
    """Raise `InputError` where no picture could be written; before hours are spent drawing it."""
    folder = path.resolve().parent
    if path.suffix.lower() not in _KINDS:
        raise InputError(f"'{path}' names no picture: let it end in {', '.join(_KINDS)}.")
    if not folder.is_dir():
        raise InputError(f"The folder {folder} doesn't exist: make it first, or write elsewhere.")
    if path.is_dir():
        raise InputError(f"'{path}' is a folder: give the name of a file.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"'{path}' can't be written: choose another place with --output.")


def save(images: list[Image], path: Path) -> list[Path]:
    """Write one picture to `path`, or several to `path` with -1, -2, ... before the ending."""
    path = path.resolve()
    if len(images) == 1:
        paths = [path]
    else:
        paths = [path.with_stem(f"{path.stem}-{index}") for index in range(1, len(images) + 1)]
    for image, each in zip(images, paths, strict=True):
        image.save(each)
    return paths
