"""What this machine is, read from /proc and /sys, within a container's limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sdaccel import machine

GIB = 1 << 30

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 avx f16c fma avx2 avx512f avx512bw avx512_bf16 amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ZEN3 = "model name\t: AMD EPYC 7763\nflags\t\t: fpu avx f16c fma avx2 sha_ni vaes\n"
GRAVITON = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd fphp asimdhp asimddp sve i8mm bf16 svebf16
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


def test_an_amx_xeon_is_known_by_its_first_core() -> None:
    cpu = machine.parse_cpuinfo(XEON)
    assert cpu.name == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert {"avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"} <= set(
        cpu.features
    )
    assert "amx_fp16" not in cpu.features


def test_a_zen_3_has_avx2_and_nothing_wider() -> None:
    assert machine.parse_cpuinfo(ZEN3) == machine.Processor(
        "AMD EPYC 7763", ("avx", "avx2", "fma", "f16c")
    )


def test_an_arm_without_a_name_is_called_by_its_part() -> None:
    cpu = machine.parse_cpuinfo(GRAVITON)
    assert "0xd40" in cpu.name
    assert {"neon", "sve", "bf16", "i8mm"} <= set(cpu.features)
    assert "avx2" not in cpu.features


def test_without_proc_torch_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"avx512_f": True, "avx512_bf16": True, "amx_bf16": False, "cpu_name": "a CPU"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    features = machine.processor(tmp_path).features
    assert {"avx2", "avx512f", "avx512_bf16"} <= set(features)
    assert "amx_bf16" not in features


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MEMINFO = f"MemTotal: {64 << 20} kB\nMemFree: {10 << 20} kB\nMemAvailable: {50 << 20} kB\n"


def test_without_a_limit_memory_is_the_machine_s(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO})
    assert machine.memory(tmp_path) == (64 * GIB, 50 * GIB)


def test_a_v2_limit_counts_and_page_cache_is_no_obstacle(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/pod/box"
    write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/pod/box\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/pod/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/pod/memory.current": f"{5 * GIB}\n",
            "sys/fs/cgroup/pod/memory.stat": f"anon 1\ninactive_file {2 * GIB}\n",
        },
    )
    assert machine.memory(tmp_path) == (8 * GIB, 5 * GIB)


def test_a_v1_limit_counts_where_the_path_is_the_outer_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/docker/0123abcd\n1:cpu,cpuacct:/docker/0123abcd\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
        },
    )
    assert machine.memory(tmp_path) == (4 * GIB, 2 * GIB)


def test_an_unlimited_v1_group_is_no_limit(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/a\n",
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/a/memory.usage_in_bytes": f"{GIB}\n",
        },
    )
    assert machine.memory(tmp_path) == (64 * GIB, 50 * GIB)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            16,
        ),
        ({}, 16),
    ],
)
def test_cores_are_the_affinity_within_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    write(tmp_path, files)
    assert machine.usable_cores(tmp_path) == expected


def caches(root: Path, core: int, sharing: str, size: str = "32768K") -> None:
    home = f"sys/devices/system/cpu/cpu{core}/cache"
    for index, (level, kind, told, shared) in enumerate(
        [
            ("1", "Data", "48K", str(core)),
            ("1", "Instruction", "64K", str(core)),
            ("2", "Unified", "2048K", str(core)),
            ("3", "Unified", size, sharing),
        ]
    ):
        files = {"level": level, "type": kind, "size": told, "shared_cpu_list": shared}
        write(root, {f"{home}/index{index}/{name}": f"{text}\n" for name, text in files.items()})


def test_a_last_level_cache_counts_once_and_those_of_other_cores_do_not(tmp_path: Path) -> None:
    for core, sharing in enumerate(("0-1", "0-1", "2-3", "2-3", "4-5", "4-5")):
        caches(tmp_path, core, sharing)
    assert machine.last_level_cache(tmp_path, {0, 1}) == 32 << 20
    assert machine.last_level_cache(tmp_path, {1, 2, 3}) == 64 << 20


def test_a_cache_of_no_known_size_and_a_system_without_any_are_none(tmp_path: Path) -> None:
    caches(tmp_path, 0, "0", size="unknown")
    assert machine.last_level_cache(tmp_path, {0}) == 2 << 20
    assert machine.last_level_cache(tmp_path, {7}) == 0


def test_without_cores_given_it_is_those_that_this_process_may_run_on(tmp_path: Path) -> None:
    usable = min(os.sched_getaffinity(0))
    for core in (usable, 99999):
        caches(tmp_path, core, str(core))
    assert machine.last_level_cache(tmp_path) == 32 << 20
