"""Peak memory of this process: a GPU's where there is one, and the host's as the system tells."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from sdaccel import malloc

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def peak_memory() -> int | None:
    """The most memory this process had on its device, in bytes, since the start or the last reset.

    The device is the GPU where there is one, else the host.
    """
    cuda = _cuda()
    return host_peak() if cuda is None else int(cuda.max_memory_allocated())


def peak_beside() -> int | None:
    """The most of the host's memory meanwhile; None where the host is the device."""
    return None if _cuda() is None else host_peak()


def host_peak() -> int | None:
    """The most that was resident in the host's memory, in bytes; None where that is not told."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return _peak_since_start()


def reset_peak() -> bool:
    """Start the device's peak anew from what is there now; False where the system forbids it."""
    if (cuda := _cuda()) is not None:
        cuda.reset_peak_memory_stats()
        return True
    return reset_host_peak()


def reset_host_peak() -> bool:
    """The same for what is resident in the host's memory."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def release() -> None:
    """Give back what closed rungs have left, so that another process has room beside this one.

    After one of OpenVINO and one of a frozen graph 14 GB were resident, of which stock needs 5.
    """
    gc.collect()
    malloc.trim()
    if (cuda := _cuda()) is not None:
        cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether this error is a lack of memory, of a device or of the host.

    torch's allocator for the host has no type of error of its own.
    """
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _cuda() -> Any:
    """torch.cuda where there is a GPU, or None."""
    import torch

    return torch.cuda if torch.cuda.is_available() else None


def _peak_since_start() -> int | None:
    """What `getrusage` knows: kilobytes on Linux, bytes on macOS; None on Windows."""
    import sys

    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
