"""Keep freed memory in the process instead of handing it back to the kernel after every layer.

glibc gives blocks above its mmap threshold (at most 32 MiB by itself) back on free, and trims the
top of its heap. A convolution's activations are such blocks: each layer gets fresh pages, and the
kernel zeroes them again, one page fault per 4 KiB. `mallopt(M_MMAP_MAX, 0)` makes blocks come from
the heap, and `mallopt(M_TRIM_THRESHOLD, -1)` stops the trimming. M_MMAP_THRESHOLD is not
the tool: its documented maximum is 32 MiB, though glibc 2.36 takes more. M_TOP_PAD made no
difference to the faults.

Measured on an AMD EPYC (Zen 3), 2 cores, glibc 2.36, torch 2.13, fp32, per forward, median of 4,
minor faults and seconds of system time (the machine was shared: its wall times scatter by more than
the effect, 1.28 s a decode):

                                    UNet, 48x48 latents      VAE decode 256x256     resident
    as it comes                     28,720 faults  0.077 s   61,396 faults 0.187 s   892 MiB
    keep_freed_memory()                  0         0.000          0        0.012     988 MiB
    after its undo                     389         0.004     68,052        0.226     864 MiB
    the environment, from the start      0         0.000          0        0.004    1025 MiB

The last row was measured with MALLOC_MMAP_THRESHOLD_=4294967296, MALLOC_TRIM_THRESHOLD_=8589934592
and MALLOC_TOP_PAD_=268435456; `launcher_environment` names what the run-time call sets, and a loop
of 40 MiB tensors settles alike with either.

So run time and environment do the same; the environment also covers what runs before the call. In a
thread other than the main one the first forwards still grow that thread's heaps (10,192 -> 5,910
and 69,640 -> 2,092 faults). Transparent huge pages (THP_MEM_ALLOC_ENABLE=1, read by torch at its
start) cut the UNet's faults to 7,186 alone and add nothing once memory is kept.

After an undo, blocks that fit a hole of the heap still come from there; larger ones are mapped
anew.

The price is memory: what the process once used, it holds until the undo. At first it grows by more
than it needs: torch asks for aligned blocks, glibc's thread cache holds on to the few bytes it cuts
off them, and a freed block then is just too small for the next of its size. That ends when the
cache's bin is full: a 40 MiB tensor made and freed in a loop settles within 10 rounds at 340 to
580 MiB resident, where 220 are the least, and stays there (300 rounds). With
GLIBC_TUNABLES=glibc.malloc.tcache_count=0 it settles after 1 or 2 at 260 to 300; what that costs
small blocks was not measured, so the launcher does not set it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import SdaccelError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # <malloc.h>

# Setting any of these freezes glibc's dynamic thresholds for good, and frozen at their first values
# (128 KiB) they cost three times the default's faults (303,182 against 90,019 a VAE decode). An
# undo therefore sets what the dynamic ones grow to in a process that frees large blocks: 4 MiB
# times sizeof(long), and twice that for trimming.
_GROWN_MMAP_THRESHOLD = 32 << 20
_GROWN_TRIM_THRESHOLD = 64 << 20
_DEFAULT_MMAP_MAX = 65536

# Bytes; above 32 MiB, so that freeing it leaves the dynamic threshold where it was.
_PROBE = 64 << 20


def page_faults() -> int:
    """Minor page faults of this process so far, all threads."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def launcher_environment() -> dict[str, str]:
    """The environment variables that do the same from a process's start; for a launcher to set."""
    return {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 43)}


def refusal() -> str | None:
    """Why freed memory can't be kept here, in one sentence, or None. Changes nothing."""
    if not sys.platform.startswith("linux"):
        return f"mallopt needs Linux with glibc, and this is {sys.platform}"
    if ctypes.sizeof(ctypes.c_void_p) < 8:
        return "a 32-bit process has no address space to keep freed memory in"
    return _already_set(os.environ) or _foreign_malloc() or _foreign_torch()


def keep_freed_memory() -> Callable[[], None]:
    """Keep freed memory for this whole process from now on; returns the undo, which is idempotent.

    Calls nest: the last undo restores the thresholds and gives what is free back to the system.
    Raises SdaccelError when `refusal` has a reason.
    """
    holders = _holders()
    holders.take()
    pending = [holders.release]

    def undo() -> None:
        if pending:
            pending.pop()()

    return undo


def trim() -> None:
    """Give back to the system, once, what is free in glibc's heaps; elsewhere do nothing."""
    if sys.platform.startswith("linux") and hasattr(process := ctypes.CDLL(None), "malloc_trim"):
        process.malloc_trim(0)


@dataclass
class _Holders:
    """How many callers want freed memory kept: like malloc, the count is the process's."""

    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> None:
        with self.lock:
            if self.count == 0:
                _keep()
            self.count += 1

    def release(self) -> None:
        with self.lock:
            self.count -= 1
            if self.count == 0:
                _give_back()


@functools.cache
def _holders() -> _Holders:
    return _Holders()


def _keep() -> None:
    reason = refusal()
    if reason is not None:
        raise SdaccelError(f"Freed memory can't be kept: {reason}.")
    _mallopt(_M_MMAP_MAX, 0)
    _mallopt(_M_TRIM_THRESHOLD, -1)  # as size_t: the largest there is, so never


def _give_back() -> None:
    _mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
    _mallopt(_M_MMAP_THRESHOLD, _GROWN_MMAP_THRESHOLD)
    _mallopt(_M_TRIM_THRESHOLD, _GROWN_TRIM_THRESHOLD)
    trim()


def _mallopt(parameter: int, value: int) -> None:
    if ctypes.CDLL(None).mallopt(parameter, value) != 1:
        raise SdaccelError(
            f"glibc refused mallopt({parameter}, {value}); leave the allocator pass out."
        )


def _already_set(environment: os._Environ[str] | dict[str, str]) -> str | None:
    """The user's or the launcher's own choice stands; an undo could not bring it back."""
    names = ("mmap_max", "mmap_threshold", "trim_threshold")
    for variable in (f"MALLOC_{name.upper()}_" for name in names):
        if variable in environment:
            return f"{variable} in the environment already says how freed memory is kept"
    if any(f"glibc.malloc.{name}=" in environment.get("GLIBC_TUNABLES", "") for name in names):
        return "GLIBC_TUNABLES in the environment already says how freed memory is kept"
    return None


class _SymbolInfo(ctypes.Structure):
    """Dl_info of <dlfcn.h>."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _foreign_malloc() -> str | None:
    """A preloaded jemalloc, tcmalloc or mimalloc, or musl: no mallopt, or one nobody hears."""
    process = ctypes.CDLL(None)
    if not hasattr(process, "gnu_get_libc_version") or not hasattr(process, "mallopt"):
        return "the C library is not glibc, so there is no mallopt"
    owner, libc = _file_of(process.malloc), _file_of(process.gnu_get_libc_version)
    if owner != libc:
        return f"malloc comes from {os.path.basename(owner)}, not glibc: mallopt would do nothing"
    return None


def _file_of(function: Callable[..., object]) -> str:
    """The library or program that a C function was loaded from."""
    info = _SymbolInfo()
    address = ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]
    ctypes.CDLL(None).dladdr(address, ctypes.byref(info))
    return os.path.realpath(os.fsdecode(info.file or b"an unknown place"))


class _MallocInfo(ctypes.Structure):
    """struct mallinfo2 of <malloc.h>, in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _foreign_torch() -> str | None:
    """A torch built with its own allocator (mimalloc in some builds) takes nothing from glibc."""
    import torch

    process = ctypes.CDLL(None)
    if not hasattr(process, "mallinfo2"):  # before glibc 2.33
        return None
    process.mallinfo2.restype = _MallocInfo
    before = process.mallinfo2()
    block = torch.empty(_PROBE, dtype=torch.uint8, device="cpu")
    after = process.mallinfo2()
    del block
    grown = after.hblkhd + after.uordblks - before.hblkhd - before.uordblks
    return (
        None
        if grown >= _PROBE // 2
        else "this torch has an allocator of its own and takes nothing from glibc"
    )
