"""Copies of storages in a file that has no name, mapped into memory.

Such a copy is read and written like any memory. Its pages are the file's, so the system can take
them back when it needs room, and `Mapping.leave_memory` takes them out of this process at once;
the next read brings them back, from the page cache while they are there. The file goes when the
last tensor on it does. The mapping is shared: a process forked from this one writes into the same
weights, as it would after `Tensor.share_memory_`.
"""

from __future__ import annotations

import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .errors import SdaccelError

if TYPE_CHECKING:
    import torch

# Whatever is not among them may be memory itself (tmpfs, ramfs) or slow (a network's).
_ON_DISK = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "xfs", "zfs")
)
_SPARE = 2
"""Room a file needs, in its own sizes: the disk is others' as well."""


class NoDiskError(SdaccelError):
    """No folder for temporary files is on a disk with room; the message says why, as a clause."""


@dataclass(frozen=True)
class Mapping:
    """A file of copies; `storages` are they, in the order of the originals, each for itself."""

    memory: mmap.mmap
    storages: list[torch.UntypedStorage]

    def leave_memory(self) -> None:
        """Take the file's pages out of this process. Nothing is lost: they are shared with it."""
        self.memory.madvise(mmap.MADV_DONTNEED)


def map_copies(storages: Sequence[torch.UntypedStorage]) -> Mapping:
    """Write `storages`, none of them empty, into a new file, and map it.

    Raises `NoDiskError` where there is no place for one.
    """
    offsets, size = _layout([each.nbytes() for each in storages])
    with _new_file(size) as file:
        for storage, offset in zip(storages, offsets, strict=True):
            file.seek(offset)
            file.write(_as_bytes(storage).numpy().data)
        file.flush()
        memory = mmap.mmap(file.fileno(), size)
    copies = [
        _copy_at(memory, offset, storage.nbytes())
        for storage, offset in zip(storages, offsets, strict=True)
    ]
    return Mapping(memory, copies)


def _layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each copy begins, on a page of its own, and where the last one ends."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    return offsets, end


def _as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    import torch

    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _copy_at(memory: mmap.mmap, offset: int, size: int) -> torch.UntypedStorage:
    import torch

    copy = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=offset)
    return copy.untyped_storage()


def _new_file(size: int) -> BinaryIO:
    """A file without a name whose `size` bytes are reserved, so that no write can run out later."""
    if not sys.platform.startswith("linux"):
        raise NoDiskError(f"which is done on Linux alone, and this is {sys.platform}")
    reasons = []
    for folder in dict.fromkeys((tempfile.gettempdir(), "/var/tmp")):
        reason = _obstacle(folder, size)
        if reason is None:
            try:
                return _reserved(folder, size)
            except OSError as error:
                reason = f"{folder} can't take them ({error.strerror})"
        reasons.append(reason)
    raise NoDiskError("; ".join(reasons))


def _obstacle(folder: str, size: int) -> str | None:
    """Why a file of `size` bytes has no place in `folder`, as a clause, or None."""
    if not os.path.isdir(folder):
        return f"{folder} is no folder"
    kind = file_system(folder)
    if kind not in _ON_DISK:
        return f"{folder} is not on a disk ({kind})"
    free = shutil.disk_usage(folder).free
    if free < _SPARE * size:
        return f"{folder} has {free / 1e9:.1f} GB free, and {_SPARE * size / 1e9:.1f} are asked for"
    return None


def _reserved(folder: str, size: int) -> BinaryIO:
    with ExitStack() as closed_on_failure:
        file = closed_on_failure.enter_context(tempfile.TemporaryFile(dir=folder))
        os.posix_fallocate(file.fileno(), 0, size)
        closed_on_failure.pop_all()
    return file


def file_system(folder: str) -> str:
    """The type of the file system that holds `folder`, as the kernel names it ("ext4")."""
    path, found, kind = Path(folder).resolve(), Path("/"), "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, its_kind, *_ = line.split(" ")
        mounted = Path(point.encode().decode("unicode_escape"))  # a blank is written as \040
        if path.is_relative_to(mounted) and mounted.is_relative_to(found):
            found, kind = mounted, its_kind
    return kind
