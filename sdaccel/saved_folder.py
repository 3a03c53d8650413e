"""A folder of files with a manifest: written as a whole or not at all, read only where it is whole.

The manifest has each file's size and SHA-256, which show damage, not malice: who can write the
folder can write the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import SavedError

MANIFEST = "sdaccel.json"
_FORMAT = 1


def write_folder(folder: Path, about: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Put files, by their names inside, and a manifest into a folder, in the place of an older one.

    Raises `SavedError` where it can't be written, or holds anything that was not saved by this, and
    leaves it as it was then.
    """
    _check_replaceable(folder)
    entries = {name: _described(content) for name, content in files.items()}
    manifest = json.dumps({"format": _FORMAT, "about": about, "files": entries}, indent=1)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise SavedError(f"{folder} can't be written: {error.strerror}.") from error
    try:
        for name, content in {**files, MANIFEST: manifest.encode()}.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _put_in_place(made, folder)
    except OSError as error:
        raise SavedError(f"{folder} can't be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def read_folder(folder: Path) -> tuple[Mapping[str, Any], dict[str, bytes]]:
    """What a folder is about, and its files' contents, all of them checked.

    Raises `SavedError` where it is none of these folders, incomplete or damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        form, about, entries = manifest["format"], dict(manifest["about"]), dict(manifest["files"])
    except FileNotFoundError:
        raise SavedError(f"There is nothing of sdaccel.save in {folder}.") from None
    except OSError as error:
        raise SavedError(f"{folder} can't be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SavedError(f"{folder / MANIFEST} is damaged: save it anew.") from error
    if form != _FORMAT:
        raise SavedError(
            f"{folder} is of another version of sdaccel (format {form}): save it anew."
        )
    return about, {name: _read(folder, name, entry) for name, entry in entries.items()}


def _read(folder: Path, name: str, entry: object) -> bytes:
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or not inside.parts:
        raise SavedError(f"{folder / MANIFEST} names a file outside of it, {name!r}: save it anew.")
    try:
        content = (folder / inside).read_bytes()
    except OSError as error:
        raise SavedError(f"{folder} is incomplete, without {name}: save it anew.") from error
    if _described(content) != entry:
        raise SavedError(f"{folder / inside} is damaged: save it anew.")
    return content


def _described(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _check_replaceable(folder: Path) -> None:
    """Raise `SavedError` where a folder holds what is not to be lost."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise SavedError(f"{folder} is no folder: choose another name.")
    if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise SavedError(f"{folder} has other files in it: choose an empty folder or a new one.")


def _put_in_place(made: Path, folder: Path) -> None:
    """Give a new folder the name of an old one, which comes back where that fails."""
    made.chmod(0o755)
    if not folder.exists():
        made.rename(folder)
        return
    old = made.with_name(f"{made.name}-old")
    folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
