"""What is installed here: versions, a compiler, and the optional extras."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

_PACKAGES = ("sdaccel", "torch", "diffusers", "transformers", "accelerate", "peft", "triton")
_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Extra:
    """One optional group of packages; `advice` says how to install what is missing."""

    name: str
    missing: tuple[str, ...]
    advice: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "missing": list(self.missing)}


def versions() -> dict[str, str | None]:
    """Python's version and each package's; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def compiler() -> str | None:
    """The C++ compiler that `torch.compile` would call on a CPU, or None."""
    chosen = os.environ.get("CXX")
    return next(
        (found for each in (chosen, *_COMPILERS) if each and (found := shutil.which(each))), None
    )


def extras() -> list[Extra]:
    """The extras that the installed package declares; none in a checkout that is not installed."""
    try:
        about = metadata.metadata("sdaccel")
    except metadata.PackageNotFoundError:
        return []
    return [_extra(name) for name in about.get_all("Provides-Extra") or []]


def _extra(name: str) -> Extra:
    missing = tuple(each for each in _requirements_of(name) if not _installed(each))
    advice = f'pip install "sdaccel[{name}]"' if missing else None
    return Extra(name, missing, advice)


def _requirements_of(extra: str) -> list[str]:
    """The requirements that `extra` adds and that hold on this platform, without their marker."""
    from packaging.requirements import Requirement

    found = []
    for line in metadata.requires("sdaccel") or []:
        each = Requirement(line)
        marker = each.marker
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            each.marker = None
            found.append(str(each))
    return found


def _installed(requirement: str) -> bool:
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    version = _version(wanted.name)
    return version is not None and wanted.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
