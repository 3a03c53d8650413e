"""Machine code for a CPU, built from a C++ file beside the kernels when it is first needed.

Triton has no CPU. Where torch's own kernel is slow there, a file of C++ with a C interface takes
its place: no headers of torch, so one build serves every version of it. The result is kept on disk,
by sources, compiler and instruction sets: in SDACCEL_CACHE, else in XDG_CACHE_HOME/sdaccel, else in
~/.cache/sdaccel. OpenMP's threads are those that torch runs on: its library is loaded already, so
that the linker finds it first.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..machine import processor

AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
"""What all C++ files take for granted: no CPU with the first two sets is without the others."""
_FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp")
_SOURCES = (".cpp", ".h", ".py")
_SECONDS = 120
_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18
"""Linux' call, its verb and what is asked for (asm/unistd_64.h, asm/prctl.h; since 5.16)."""


class BuildError(Exception):
    """A C++ file could not be built here; says why in half a sentence."""


@functools.cache
def library(source: str, instruction_sets: tuple[str, ...]) -> ctypes.CDLL:
    """The library built from `kernels/<source>.cpp` for these sets (gcc's names: "avx512f").

    Headers that it includes begin with its name, or with "native".

    Raises `BuildError` without a compiler, on a failed compilation, and for a library that can't be
    loaded. A failure is not kept: the next call tries again.
    """
    file = Path(__file__).with_name(f"{source}.cpp")
    compiler = _compiler()
    flags = (*_FLAGS, *(f"-m{each}" for each in instruction_sets))
    built = cache_folder() / f"{source}-{_digest(file, compiler, flags)}.so"
    try:
        if not built.exists():
            _build(file, compiler, flags, built)
        return ctypes.CDLL(str(built))
    except OSError as error:
        raise BuildError(f"{built.name} can't be kept or loaded ({error})") from error


def without_avx512() -> str | None:
    """That this CPU has no AVX-512, or None."""
    here = {"avx512f", "avx512bw"} <= set(processor().features)
    return None if here else "this CPU has no AVX-512"


@functools.cache
def tiles_allowed() -> bool:
    """Whether this process may use AMX's tiles: Linux keeps their state for those who ask.

    Only to be called on an x86-64 CPU that has them.
    """
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA) == 0


def cache_folder() -> Path:
    """Where what was built or measured on this machine is kept; it need not exist yet."""
    chosen = os.environ.get("SDACCEL_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sdaccel"


def _compiler() -> str:
    names = os.environ.get("CXX", "g++").split()[:1] or ["g++"]
    found = shutil.which(names[0])
    if found is None:
        raise BuildError(f"no C++ compiler: install {names[0]}, or set CXX")
    return found


def fingerprint(stem: str, *more: bytes) -> str:
    """Of the source files of the kernels whose names begin so, of what all share, and of `more`."""
    folder = Path(__file__).parent
    found = {*folder.glob(f"{stem}*"), *folder.glob("native*.h")}
    files = sorted(each for each in found if each.suffix in _SOURCES)
    contents = (each.read_bytes() for each in files)
    return hashlib.sha256(b"\0".join((*contents, *more))).hexdigest()[:16]


def _digest(file: Path, compiler: str, flags: Sequence[str]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=_SECONDS)
    return fingerprint(
        file.stem, version.stdout, " ".join(flags).encode(), platform.node().encode()
    )


def _build(file: Path, compiler: str, flags: Sequence[str], built: Path) -> None:
    """Compile beside the goal and move it there, so that no other process sees half a library."""
    built.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=".so", dir=built.parent)
    os.close(handle)
    try:
        command = [compiler, *flags, str(file), "-o", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            raise BuildError(f"{Path(compiler).name} failed: {(errors or [done.stderr])[0][:200]}")
        Path(name).replace(built)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{Path(compiler).name} took more than {_SECONDS} s") from error
    finally:
        Path(name).unlink(missing_ok=True)
