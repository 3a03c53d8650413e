"""Freed memory stays in the process while any pipe asks for it."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest
import tiny

import sdaccel
from sdaccel import malloc

needs_glibc = pytest.mark.skipif(
    malloc.refusal() is not None, reason=f"mallopt can't be used here: {malloc.refusal()}"
)


@needs_glibc
def test_faults_are_counted_for_each_generation() -> None:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", allocator=True)
    for _ in range(3):
        tiny.draw(pipe)
    record = sdaccel.report(pipe)["allocator"]
    assert record.ran["generations watched"] == 2, "the first fills the heap"
    assert "whole process" in next(iter(record.changed))


@needs_glibc
def test_faults_between_generations_are_not_counted(monkeypatch: Any) -> None:
    faults = 0
    monkeypatch.setattr(malloc, "page_faults", lambda: faults)
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", allocator=True)
    for _ in range(3):
        tiny.draw(pipe)
        faults += 1000
    assert sdaccel.report(pipe)["allocator"].ran["page faults in them"] == 0


def test_it_refuses_with_malloc_s_reason(monkeypatch: Any) -> None:
    monkeypatch.setattr(malloc, "refusal", lambda: "jemalloc is loaded")
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", allocator=True)
    assert sdaccel.report(pipe)["allocator"].refused == {"pipe": "jemalloc is loaded"}


_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import tiny, torch, sdaccel
from sdaccel.malloc import page_faults

def faults():
    torch.zeros(64 << 20, dtype=torch.uint8)
    before = page_faults()
    for _ in range(20):
        torch.zeros(64 << 20, dtype=torch.uint8)
    return page_faults() - before

pipes = [tiny.stable_diffusion(), tiny.stable_diffusion()]
stock = faults()
for pipe in pipes:
    sdaccel.accelerate(pipe, "none", allocator=True)
kept = faults()
sdaccel.restore(pipes[0])
still = faults()
sdaccel.restore(pipes[1])
print(stock, kept, still, faults())
"""


@needs_glibc
def test_the_last_restore_gives_the_memory_back() -> None:
    folder = tiny.__file__.rsplit("/", 1)[0]
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    stock, kept, still, after = map(int, done.stdout.split())
    # a kernel that reclaims idle pages (DAMON) adds faults of its own to the first two
    assert kept < stock / 2
    assert still < stock / 2
    # the hole in the heap is used again, but its pages had been given back
    assert after > stock / 20 * 0.9


@needs_glibc
def test_a_pipe_that_is_gone_asks_for_nothing() -> None:
    gc.collect()
    before = malloc._holders().count
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", allocator=True)
    assert malloc._holders().count == before + 1
    del pipe
    gc.collect()
    assert malloc._holders().count == before
