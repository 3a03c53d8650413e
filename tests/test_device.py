"""What a device can do: described without measuring, measured once, made a choice of dtype."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdaccel import device, machine
from sdaccel.errors import SdaccelError

XEON = machine.Processor(
    "Xeon", ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
)
ZEN3 = machine.Processor("EPYC", ("avx2",))
ARM = machine.Processor("Neoverse", ("neon", "asimdhp", "asimddp", "bf16"))


def test_importing_it_does_not_load_torch() -> None:
    modules = "sdaccel.device, sdaccel.known_gpus, sdaccel.malloc"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(device.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        (XEON, ("float32", "bfloat16", "int8")),
        (ZEN3, ("float32",)),
        (ARM, ("float32", "bfloat16", "float16", "int8")),
    ],
)
def test_a_cpu_s_fast_dtypes_follow_its_instructions(
    monkeypatch: pytest.MonkeyPatch, cpu: machine.Processor, expected: tuple[str, ...]
) -> None:
    monkeypatch.setattr(machine, "processor", lambda: cpu)
    described = device.describe("cpu")
    assert (described.kind, described.name, described.architecture) == ("cpu", cpu.name, "")
    assert described.instruction_sets == cpu.features
    assert described.fast_dtypes == expected


def test_this_machine_is_described_in_plain_json_and_in_bytes() -> None:
    described = device.describe("cpu")
    assert json.loads(json.dumps(described.to_dict())) == described.to_dict()
    assert described.cores >= 1
    assert 0 < described.memory_available <= described.memory_total
    assert described.memory_total > 1 << 28


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """A machine with one GPU of this architecture, NVIDIA's or AMD's."""
    amd = architecture.startswith("gfx")
    capability = (0, 0) if amd else (int(architecture[3:-1]), int(architecture[-1]))
    properties = SimpleNamespace(
        name="a GPU",
        major=capability[0],
        minor=capability[1],
        gcnArchName=architecture + ":sramecc+:xnack-",
    )
    monkeypatch.setattr(torch.version, "hip", "7.0" if amd else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 << 30, 80 << 30))


@pytest.mark.parametrize(
    ("architecture", "kind", "dtype", "fp8"),
    [
        ("sm_61", "cuda", torch.float32, None),
        ("sm_70", "cuda", torch.float16, None),
        ("sm_75", "cuda", torch.float16, None),
        ("sm_80", "cuda", torch.bfloat16, None),
        ("sm_89", "cuda", torch.bfloat16, "float8_e4m3fn"),
        ("sm_90", "cuda", torch.bfloat16, "float8_e4m3fn"),
        ("sm_120", "cuda", torch.bfloat16, "float8_e4m3fn"),
        ("gfx942", "rocm", torch.bfloat16, "float8_e4m3fnuz"),
        ("gfx1030", "rocm", torch.float16, None),
        ("gfx1100", "rocm", torch.bfloat16, None),
    ],
)
def test_a_gpu_is_judged_by_its_architecture(
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    kind: str,
    dtype: torch.dtype,
    fp8: str | None,
) -> None:
    pretend_gpu(monkeypatch, architecture)
    described = device.describe()
    assert (described.kind, described.architecture) == (kind, architecture)
    assert (described.memory_total, described.memory_available) == (80 << 30, 60 << 30)
    assert [name for name in described.fast_dtypes if name.startswith("float8")] == (
        [fp8] if fp8 else []
    )
    choice = device.faster_dtype("cuda:0")
    assert choice.dtype == dtype
    assert architecture in choice.reason


def test_a_device_that_is_not_here_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "meta", "no such thing"):
        with pytest.raises(SdaccelError, match="'cpu'"):
            device.describe(name)
    pretend_gpu(monkeypatch, "sm_90")
    with pytest.raises(SdaccelError, match="cuda:3"):
        device.describe("cuda:3")


def rates(float32: float, bfloat16: float, float16: float) -> dict[torch.dtype, float]:
    """Matmul rates in TFLOP/s, as FLOP/s by dtype."""
    named = {torch.float32: float32, torch.bfloat16: bfloat16, torch.float16: float16}
    return {dtype: rate * 1e12 for dtype, rate in named.items()}


@pytest.mark.parametrize(
    ("ceilings", "dtype", "reason"),
    [
        (
            rates(0.30, 2.10, 0.20),
            torch.bfloat16,
            "bfloat16 runs at 2.10 TFLOP/s here, float32 at 0.30",
        ),
        (
            rates(0.30, 0.40, 4.00),
            torch.bfloat16,
            "bfloat16 runs at 0.40 TFLOP/s here, float32 at 0.30",
        ),
        (
            rates(0.30, 0.38, 0.90),
            torch.float16,
            "float16 runs at 0.90 TFLOP/s here, float32 at 0.30",
        ),
        (rates(0.30, 0.38, 0.31), torch.float32, "bfloat16 reaches 0.38 TFLOP/s, float32 0.30"),
        (
            rates(0.12, 0.0003, 0.0002),
            torch.float32,
            "bfloat16 reaches 0.0003 TFLOP/s, float32 0.12",
        ),
    ],
)
def test_a_cpu_computes_in_16_bits_where_that_is_worth_it(
    monkeypatch: pytest.MonkeyPatch,
    ceilings: dict[torch.dtype, float],
    dtype: torch.dtype,
    reason: str,
) -> None:
    monkeypatch.setattr(machine, "processor", lambda: ARM)
    choice = device.faster_dtype("cpu", ceiling=ceilings.__getitem__)
    assert choice.dtype == dtype
    assert reason in choice.reason


def test_a_measurement_alone_does_not_give_a_cpu_16_bit_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy machine once timed float32 below emulated bfloat16."""
    monkeypatch.setattr(machine, "processor", lambda: ZEN3)
    choice = device.faster_dtype("cpu", ceiling=rates(0.0001, 0.0003, 0.0002).__getitem__)
    assert choice.dtype == torch.float32
    assert "no 16-bit dtype has its own instructions" in choice.reason


def test_the_best_of_several_timings_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks of 50 (the warm-up), 9, 3 and 90 ms; the last one ends the tenth of a second."""
    durations = iter([0.05, 0.009, 0.003, 0.09])
    now = [0.0]

    def step() -> None:
        now[0] += next(durations)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert device._best_seconds(step, torch.device("cpu")) == pytest.approx(0.003)


def test_the_matmul_ceiling_is_plausible_measured_once_and_draws_nothing_from_the_global_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device._measured_matmul.cache_clear()
    before = torch.get_rng_state()
    measured = device.matmul_ceiling("cpu", torch.float32)
    assert 0 < measured < 1e14
    assert torch.equal(before, torch.get_rng_state())
    monkeypatch.setattr(device, "_matmul_seconds", lambda *_: pytest.fail("measured again"))
    assert device.matmul_ceiling(torch.device("cpu", 0), torch.float32) == measured


@pytest.mark.parametrize(
    ("rate", "overhead", "largest"),
    [(0.12e12, 0, 1024), (0.0003e12, 0, 128), (0.12e12, 0.05, 1024)],
)
def test_the_matmul_s_size_grows_only_as_far_as_the_dtype_s_speed_allows(
    monkeypatch: pytest.MonkeyPatch, rate: float, overhead: float, largest: int
) -> None:
    spent: list[tuple[int, float]] = []

    def seconds(where: object, dtype: object, size: int) -> float:
        once = overhead + 2 * size**3 / rate
        spent.append((size, 3 * once))
        return once

    monkeypatch.setattr(device, "_matmul_seconds", seconds)
    measured = device._measured_matmul.__wrapped__(torch.device("cpu"), torch.float32)
    assert measured == pytest.approx(2 * largest**3 / (overhead + 2 * largest**3 / rate))
    assert max(size for size, _ in spent) == largest
    assert sum(total for _, total in spent) < 0.5 + 15 * overhead


def test_the_ceiling_of_an_integer_matmul_is_refused() -> None:
    with pytest.raises(SdaccelError, match="int8"):
        device.matmul_ceiling("cpu", torch.int8)


def test_the_copy_ceiling_counts_what_is_read_and_what_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = device.copy_ceiling("cpu")
    assert 0 < measured < 1e13
    monkeypatch.setattr(device, "_copy_bytes", lambda _: 64 << 20)
    monkeypatch.setattr(device, "_best_seconds", lambda *_, **__: 0.5)
    assert device.copy_ceiling("cpu") == measured
    assert device._measured_copy.__wrapped__(torch.device("cpu")) == 2 * (64 << 20) / 0.5


@pytest.mark.parametrize(
    ("cache", "available", "size"),
    [
        (0, 0, 128 << 20),
        (32 << 20, 64 << 30, 128 << 20),
        (105 << 20, 64 << 30, 208 << 20),
        (480 << 20, 64 << 30, 960 << 20),
        (1152 << 20, 64 << 30, 1 << 30),
        (480 << 20, 2 << 30, 256 << 20),
        (0, 1 << 20, 4 << 20),
    ],
)
def test_what_is_copied_is_beyond_the_caches_and_within_the_memory(
    monkeypatch: pytest.MonkeyPatch, cache: int, available: int, size: int
) -> None:
    monkeypatch.setattr(machine, "last_level_cache", lambda: cache)
    monkeypatch.setattr(machine, "memory", lambda: (available, available))
    assert device._copy_bytes(torch.device("cpu")) == size
    assert device._copy_bytes(torch.device("cuda", 0)) == 1 << 30


def test_no_timed_copy_touches_a_page_for_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    size, faults = 64 << 20, list[int]()

    def clock() -> float:
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        return len(faults) / 8

    monkeypatch.setattr(device, "_copy_bytes", lambda _: size)
    monkeypatch.setattr(time, "perf_counter", clock)
    device._measured_copy.__wrapped__(torch.device("cpu"))
    first, *timed = [
        after - before for before, after in zip(faults[::2], faults[1::2], strict=True)
    ]
    pages = size / resource.getpagesize()
    assert first > pages / 600, "of 2 MiB, where the system gives those"
    assert len(timed) == 4
    assert max(timed) < min(pages / 600, first / 2)


def test_a_copy_that_a_neighbour_slows_down_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a third of a second; what the tenth of a second of a matmul would have ended with."""
    now = [0.0]

    def copy(*_: Any, **__: Any) -> None:
        now[0] += 0.1 if now[0] < 0.4 else 0.01

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(device, "_copy_bytes", lambda _: 4 << 20)
    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    found = device._measured_copy.__wrapped__(torch.device("cpu"))
    assert found == pytest.approx(2 * (4 << 20) / 0.01)
    assert now[0] < 1.0
