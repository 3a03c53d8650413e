"""Whether an embedded model's weight files are whole: their sizes and SHA-256 sums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

CHECKSUMS = "checksums.json"
_WEIGHTS = "*.safetensors"
_REMEDY = "reinstall sdaccel, or restore the file from the repository"


class WeightsError(ValueError):
    """An embedded model's file is missing, truncated or not the one that was exported."""


def write_checksums(folder: Path) -> None:
    """Write the sizes and sums of a pipeline's weight files beside them; the export's last act."""
    files = sorted(folder.rglob(_WEIGHTS))
    sums = {path.relative_to(folder).as_posix(): _describe(path) for path in files}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def verify(folder: Path) -> None:
    """Raise `WeightsError` unless every weight file is the one that was exported.

    Missing and truncated files are found first. The sums are taken at every load, because they
    cost little and what they read is then in the system's cache: 35 ms for the UNet's 16 MB on an
    EPYC with SHA instructions.
    """
    expected = read(folder)
    for name, described in expected.items():
        path, size = folder / name, described["bytes"]
        if not path.is_file():
            raise WeightsError(f"{path} is missing: {_REMEDY}.")
        found = path.stat().st_size
        if found < size:
            raise WeightsError(f"{path} is truncated to {found} of {size} bytes: {_REMEDY}.")
    for name, described in expected.items():
        if _describe(folder / name) != described:
            raise WeightsError(f"{folder / name} has a wrong checksum: {_REMEDY}.")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """What the weight files must be: their names to `bytes` and `sha256`."""
    path = folder / CHECKSUMS
    try:
        sums: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} can't be read: {_REMEDY}.") from error
    return sums


def _describe(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
