"""Whether an export fits on the disk, and the folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from ..errors import ExportError

GRAPH = 32 << 20
"""Bytes for a component's graph and the copy that shape inference writes, without weights."""


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that gets its name at the end, and is gone after an error.

    Raises `ExportError` where `path` holds something already or can't be made.
    """
    check_new(path)
    made: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        made.chmod(0o755)
        yield made
        if path.exists():
            path.rmdir()
        made.rename(path)
    except OSError as error:
        raise ExportError(
            f"'{path}' can't be written ({error.strerror or error}): choose another folder."
        ) from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def check_new(path: Path) -> None:
    """Raise `ExportError` where `path` holds something already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ExportError(f"'{path}' is not empty: name a folder that is not there yet.")


def check_room(
    folder: Path,
    needed: int,
    what: str = "export",
    otherwise: str = "choose another folder, or fewer components",
    leaving: int = 0,
) -> None:
    """Raise `ExportError` unless the disk has room for so many bytes of `what` in a folder.

    What is `leaving` the folder for them, in bytes, counts as room; `otherwise` is what else one
    can do than make room.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free + leaving
    if free < needed:
        raise ExportError(
            f"The {what} takes about {needed / 1e9:.1f} GB, and '{folder}' has room for "
            f"{free / 1e9:.1f} GB: make room, {otherwise}."
        )


def room_for(modules: Iterable[tuple[torch.nn.Module, torch.dtype]]) -> int:
    """The bytes that graphs of these modules in these dtypes take."""
    return sum(bytes_of(module, dtype) + GRAPH for module, dtype in modules)


def bytes_of(module: torch.nn.Module, dtype: torch.dtype) -> int:
    """The size of a module's weights in a dtype, each shared one counted once."""
    width = torch.empty(0, dtype=dtype).element_size()
    tensors = [*module.parameters(), *module.buffers()]
    return sum(
        each.numel() * (width if each.is_floating_point() else each.element_size())
        for each in tensors
    )
