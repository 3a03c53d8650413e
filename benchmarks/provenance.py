"""Where numbers come from: the machine and its measured ceilings, versions, commit and command."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdaccel import device

if TYPE_CHECKING:
    import torch

_PACKAGES = (
    *("sdaccel", "torch", "triton", "diffusers", "transformers"),
    *("openvino", "flash-attn", "sageattention"),
)


def machine(where: torch.device | None = None) -> dict[str, Any]:
    """The device, threads and system, and the ceilings measured now (FLOP/s, bytes a second)."""
    import torch

    described = device.describe(where)
    at = torch.device("cuda" if described.kind in ("cuda", "rocm") else described.kind)
    values = described.to_dict()
    del values["memory_available"]
    sets = described.instruction_sets if described.kind == "cpu" else ()
    return {
        **values,
        "slug": slug(described.name, described.cores, sets),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "matmul_ceiling": device.matmul_ceiling(at, torch.float32),
        "copy_ceiling": device.copy_ceiling(at),
    }


def slug(name: str, cores: int, instruction_sets: Sequence[str] = ()) -> str:
    """A folder's name for a machine: "amd-epyc-2-cores".

    A CPU with AMX says so: a cloud's may be called "Xeon" alone, with and without.
    """
    words = re.sub(r"\((r|tm)\)", " ", name.lower())
    units = "amx" if "amx_bf16" in instruction_sets else ""
    return re.sub(r"[^a-z0-9]+", "-", f"{words} {cores} cores {units}").strip("-")


def file_name(workload: str) -> str:
    """A workload's part of a file's name: letters, digits, dots and dashes."""
    return re.sub(r"[^\w.-]+", "-", workload).strip("-.")


def versions() -> dict[str, str]:
    """Python's version, and those of the packages that were there."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the checkout that this file lies in, with a "+" where files differ from it."""
    folder = Path(__file__).resolve().parent
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return "unknown"
    return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(timezone.utc)


def command(module: str = "sdaccel.benchmarks") -> str:
    """How this run was called, without the folders of the interpreter and the checkout."""
    arguments = [os.path.relpath(each) if os.path.isabs(each) else each for each in sys.argv[1:]]
    return " ".join([f"python -m {module}", *arguments])


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
