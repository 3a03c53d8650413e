"""Cores, instruction sets, caches and memory of this machine, as far as this process may use them.

A container's limits (cgroup v1 and v2) count as the machine's: what lies beyond them gets the
process killed or throttled. Everything is read from /proc and /sys; `root` lets a test put its own
files there.
"""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")

# What a plan may ask for, by the names of /proc/cpuinfo: x86, then Arm.
_KNOWN_FEATURES = (
    *(
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
    ),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("neon", "fphp", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16", "sme"),
)


@dataclass(frozen=True)
class Processor:
    """A CPU's name and instruction sets, by the names of /proc/cpuinfo (Arm's asimd as neon)."""

    name: str
    features: tuple[str, ...]


def processor(root: Path = _ROOT) -> Processor:
    """The CPU by /proc/cpuinfo, or by torch and `platform` where there is none."""
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return Processor(platform.processor() or platform.machine() or "CPU", _torch_features())
    return parse_cpuinfo(text)


def parse_cpuinfo(text: str) -> Processor:
    """The first core's name and flags; Arm kernels give no name but an implementer and a part."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    if "asimd" in flags:
        flags.add("neon")
    name = fields.get("model name") or fields.get("Model")
    if not name and "CPU part" in fields:
        name = f"Arm implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return Processor(
        name or platform.machine() or "CPU",
        tuple(each for each in _KNOWN_FEATURES if each in flags),
    )


def _torch_features() -> tuple[str, ...]:
    """What torch itself found, on systems without /proc/cpuinfo; it writes avx512_f for avx512f."""
    import torch

    ask = getattr(torch.cpu, "get_capabilities", dict)  # not in torch 2.9
    found = {name.replace("_", "") for name, value in ask().items() if value is True}
    if platform.machine().lower() in {"arm64", "aarch64"}:
        found.add("neon")
    level = torch.backends.cpu.get_cpu_capability()
    found |= {"AVX2": {"avx2"}, "AVX512": {"avx2", "avx512f"}}.get(level, set())
    return tuple(each for each in _KNOWN_FEATURES if each.replace("_", "") in found)


def usable_cores(root: Path = _ROOT) -> int:
    """Logical cores this process may run on: its affinity, and a container's quota rounded up."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cpu_quota(root: Path) -> float | None:
    """The tightest CPU quota of the groups this process is in, in cores."""
    quotas = []
    for group in _groups(root, "cpu"):
        maximum = _words(group / "cpu.max")
        if len(maximum) < 2:
            maximum = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if len(maximum) == 2 and maximum[0] not in {"max", "-1"}:
            quotas.append(int(maximum[0]) / int(maximum[1]))
    return min(quotas, default=None)


def last_level_cache(root: Path = _ROOT, cores: Collection[int] | None = None) -> int:
    """Bytes of the caches next to memory that these cores use; 0 where the system doesn't say.

    `cores` are those that this process may run on, unless given. Each cache counts once, however
    many cores share it.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    if cores is None:
        cores = affinity(0) if affinity else range(os.cpu_count() or 1)
    found: dict[tuple[int, str], int] = {}
    for core in cores:
        for cache in (root / f"sys/devices/system/cpu/cpu{core}/cache").glob("index*"):
            level, size = _number(cache, "level"), " ".join(_words(cache / "size"))
            if level is None or not re.fullmatch(r"\d+K", size):
                continue
            sharing = " ".join(_words(cache / "shared_cpu_list")) or str(core)
            found[level, sharing] = int(size[:-1]) << 10
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last)


def memory(root: Path = _ROOT) -> tuple[int, int]:
    """Total and available bytes within a container's limit; (0, 0) where the system doesn't say."""
    total, available = _system_memory(root)
    for group in _groups(root, "memory"):
        limit = _number(group, "memory.max", "memory.limit_in_bytes")
        used = _number(group, "memory.current", "memory.usage_in_bytes")
        # An unlimited v1 group says 2^63 less a page.
        if limit is None or used is None or limit >= total > 0:
            continue
        total = limit
        available = min(available, max(0, limit - used + _reclaimable(group)))
    return total, available


def _system_memory(root: Path) -> tuple[int, int]:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return _posix_memory()
    sizes = {
        key: int(rest.split()[0]) << 10
        for key, _, rest in (line.partition(":") for line in lines)
        if rest
    }
    return sizes.get("MemTotal", 0), sizes.get("MemAvailable", sizes.get("MemFree", 0))


def _posix_memory() -> tuple[int, int]:
    """macOS has no /proc; what is available there is not known, and the total stands for it."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0, 0
    return total, total


def _reclaimable(group: Path) -> int:
    """Bytes of page cache that a group gives up before it is out of memory."""
    stat = dict(pair for line in _lines(group / "memory.stat") if len(pair := line.split()) == 2)
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _groups(root: Path, controller: str) -> list[Path]:
    """The directories of the cgroups that bound this process, innermost first; v1 and v2.

    Inside a container the path of /proc/self/cgroup is often the outer one and its directory
    missing here; the root of the hierarchy is then the container's own group.
    """
    found = []
    for line in _lines(root / "proc/self/cgroup"):
        number, names, path = line.split(":", 2)
        if number == "0" and not names:
            base = root / "sys/fs/cgroup"
        elif controller in names.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        inner = base / path.strip("/")
        found += [
            each for each in (inner, *inner.parents) if each.is_relative_to(base) and each.is_dir()
        ]
    return found


def _number(group: Path, *names: str) -> int | None:
    """The first of these files that holds a number."""
    for name in names:
        words = _words(group / name)
        if words and words[0].isdigit():
            return int(words[0])
    return None


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
