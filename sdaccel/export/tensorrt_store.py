"""Engines on disk, found by their keys, checked before use; the least recently used make room.

FOLDER/<structure>-<weights>/engine.plan
FOLDER/<structure>-<weights>/engine.json
FOLDER/timings-<gpu>
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ExportError
from .space import check_room, new_folder
from .tensorrt_keys import EngineKey

PLAN, ABOUT = "engine.plan", "engine.json"


class DamagedEngineError(ExportError):
    """What is kept of an engine is not what was kept; the message is a clause."""


@dataclass(frozen=True)
class Kept:
    """An engine on disk; `about` says what it was built for."""

    folder: Path
    about: Mapping[str, Any]

    def read(self) -> bytes:
        """The plan, every byte checked, and used last from now on.

        Raises `DamagedEngineError`: a plan is machine code, and only the one that was kept is
        loaded.
        """
        path = self.folder / PLAN
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise DamagedEngineError(f"{path} can't be read ({error.strerror})") from error
        if hashlib.sha256(plan).hexdigest() != self.about.get("sha256"):
            raise DamagedEngineError(
                f"{path} is truncated or was changed since it was built, for its checksum is "
                "another"
            )
        with contextlib.suppress(OSError):
            os.utime(self.folder / ABOUT)
        return plan

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return sum(each.stat().st_size for each in self.folder.iterdir())

    @property
    def used(self) -> float:
        """When it was used last, as a time stamp."""
        return (self.folder / ABOUT).stat().st_mtime


@dataclass(frozen=True)
class EngineStore:
    """A folder of engines; `limit` is how many bytes of them it may hold, None for any number."""

    folder: Path
    limit: int | None = None

    def find(self, key: EngineKey) -> Kept | None:
        """The engine of this key."""
        return _kept(self.folder / key.name)

    def alike(self, key: EngineKey) -> Iterator[Kept]:
        """Those of the same structure, whatever their weights; the last used first."""
        found = [each for each in self._all() if each.folder.name.startswith(f"{key.structure}-")]
        yield from sorted(found, key=lambda each: each.used, reverse=True)

    def all(self) -> list[Kept]:
        """Every engine that is there."""
        return list(self._all())

    def keep(self, key: EngineKey, plan: Any, about: Mapping[str, Any]) -> Kept:
        """Write an engine, and let the least recently used go where the limit is passed.

        Raises `ExportError` where the disk has no room.
        """
        content = memoryview(plan).cast("B")
        shutil.rmtree(self.folder / key.name, ignore_errors=True)
        self._make_room(content.nbytes)
        with new_folder(self.folder / key.name) as made:
            (made / PLAN).write_bytes(content)
            told = {**about, "sha256": hashlib.sha256(content).hexdigest()}
            (made / ABOUT).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        return Kept(self.folder / key.name, told)

    def drop(self, kept: Kept) -> None:
        """Take away an engine, if it is one of this store's."""
        if kept.folder.parent == self.folder:
            shutil.rmtree(kept.folder, ignore_errors=True)

    def check_room(self, needed: int) -> None:
        """Raise `ExportError` unless the disk has room for an engine of so many bytes.

        Where there is a limit, what would have to go for it counts as room.
        """
        leaving = sum(each.bytes for each in self._leaving(needed))
        otherwise = "or let SDACCEL_CACHE name another folder"
        check_room(self.folder, needed, "engine", otherwise, leaving)

    def timings(self, gpu: str) -> Path:
        """The file with the times that kernels took on a GPU."""
        return self.folder / f"timings-{gpu}"

    def _all(self) -> Iterator[Kept]:
        places = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        yield from filter(None, map(_kept, places))

    def _make_room(self, needed: int) -> None:
        for each in self._leaving(needed):
            shutil.rmtree(each.folder, ignore_errors=True)

    def _leaving(self, needed: int) -> list[Kept]:
        """What has to go for an engine of so many bytes: the least recently used."""
        if self.limit is None:
            return []
        there = sorted(self._all(), key=lambda each: each.used)
        total, leaving = needed + sum(each.bytes for each in there), []
        while there and total > self.limit:
            leaving.append(there.pop(0))
            total -= leaving[-1].bytes
        return leaving


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)


def _kept(folder: Path) -> Kept | None:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Kept(folder, about) if isinstance(about, dict) else None
