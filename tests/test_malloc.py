"""Freed memory stays while it is asked to, and goes back when it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdaccel import malloc
from sdaccel.errors import SdaccelError

ROOT = Path(malloc.__file__).resolve().parents[1]

# 40 MiB is above the largest threshold glibc chooses by itself, so each tensor is a fresh mapping.
# The calmest of several windows counts: kept memory grows first, until the thread cache is full of
# clippings of aligned blocks, and once or twice more when small allocations come in between.
LOOP = """
import json, sys
import torch
from sdaccel import malloc

def faults(windows=10, size=40 << 20):
    seen = []
    for _ in range(windows):
        before = malloc.page_faults()
        for _ in range(4):
            torch.empty(size, dtype=torch.uint8)[: 40 << 20].fill_(1)
        seen.append(malloc.page_faults() - before)
    return min(seen)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
"""


def run(code: str, **environment: str) -> dict[str, object]:
    """The last line that `code` prints in a process of its own, as JSON."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_"))
    }
    clean.pop("LD_PRELOAD", None)
    # One thread, and no huge pages: they would hide 512 faults in one.
    clean |= {
        "PYTHONPATH": str(ROOT),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "THP_MEM_ALLOC_ENABLE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOOP + code],
        env=clean | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture
def glibc() -> None:
    reason = malloc.refusal()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.usefixtures("glibc")
def test_page_faults_collapse_while_freed_memory_is_kept_and_come_back_after_the_undo() -> None:
    seen = run(
        "result = {'stock': faults(windows=2)}\n"
        "first, second = malloc.keep_freed_memory(), malloc.keep_freed_memory()\n"
        "result['kept'], held = faults(), resident()\n"
        "first(); first()\n"
        "result['one undone'] = faults()\n"
        "second()\n"
        "result['given back'] = held - resident()\n"
        # Larger than any hole that the kept memory left in the heap.
        "result['undone'] = faults(windows=2, size=1 << 30)\n"
        "malloc.keep_freed_memory()\n"
        "result['again'] = faults()\n"
        "print(json.dumps(result))"
    )
    stock = seen["stock"]
    assert isinstance(stock, int)
    assert stock > 4 * 1024
    for kept in ("kept", "one undone", "again"):
        assert seen[kept] * 10 < stock, kept  # type: ignore[operator]
    assert seen["undone"] * 2 > stock  # type: ignore[operator]
    assert seen["given back"] > 30 << 20  # type: ignore[operator]


@pytest.mark.usefixtures("glibc")
def test_the_launcher_environment_does_the_same_and_then_nothing_is_left_to_do() -> None:
    code = "print(json.dumps({'faults': faults(), 'refusal': malloc.refusal()}))"
    launched = run(code, **malloc.launcher_environment())
    assert launched["faults"] * 10 < 4 * 10240  # type: ignore[operator]
    assert "MALLOC_MMAP_MAX_ in the environment" in str(launched["refusal"])


@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_TRIM_THRESHOLD_": "1"},
        {"GLIBC_TUNABLES": "glibc.malloc.check=0:glibc.malloc.mmap_max=3"},
    ],
)
def test_what_the_environment_already_sets_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    reason = malloc.refusal()
    assert reason is not None
    assert next(iter(environment)) in reason
    nobody = malloc._Holders()
    monkeypatch.setattr(malloc, "_holders", lambda: nobody)
    with pytest.raises(SdaccelError, match="environment"):
        malloc.keep_freed_memory()


def test_an_unrelated_tunable_is_no_reason_to_refuse() -> None:
    assert (
        malloc._already_set(
            {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0", "MALLOC_ARENA_MAX": "2"}
        )
        is None
    )


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert platform in str(malloc.refusal())


@pytest.mark.usefixtures("glibc")
def test_another_malloc_is_refused_by_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    files = iter(["/usr/lib/libjemalloc.so.2", "/usr/lib/libc.so.6"])
    monkeypatch.setattr(malloc, "_file_of", lambda _: next(files))
    assert "libjemalloc.so.2" in str(malloc.refusal())


@pytest.mark.usefixtures("glibc")
def test_a_torch_that_takes_nothing_from_glibc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert "allocator of its own" in str(malloc.refusal())
