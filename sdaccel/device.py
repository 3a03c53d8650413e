"""What the device at hand can do: its kind, size and instruction sets, and its measured ceilings.

Data sheets of devices that are not at hand are in `known_gpus`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from . import machine
from .errors import SdaccelError

if TYPE_CHECKING:
    import torch

    DeviceLike: TypeAlias = str | torch.device | None

# A 16-bit type has to beat fp32 by this much in a matmul: converting, and the ops that run no
# faster, eat the rest.
_WORTHWHILE = 1.3


@dataclass(frozen=True)
class Device:
    """One device as this process may use it; memory in bytes, dtypes by torch's names."""

    kind: str  # "cpu", "cuda", "rocm", "mps"
    name: str
    cores: int  # of the host, usable by this process, whatever the kind
    instruction_sets: tuple[str, ...]  # of the host's CPU, by the names of /proc/cpuinfo
    architecture: str  # "sm_90", "gfx942"; "" on a CPU
    memory_total: int
    memory_available: int
    fast_dtypes: tuple[str, ...]  # those with units of their own

    def to_dict(self) -> dict[str, Any]:
        """The same as plain lists, strings and numbers, for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class DtypeChoice:
    """The dtype to compute in, and one clause that says why."""

    dtype: torch.dtype
    reason: str


def describe(device: DeviceLike = None) -> Device:
    """What `device` is and has (default: the accelerator if there is one); measures nothing.

    Raises SdaccelError for a device that is not here or not supported.
    """
    where = _resolve(device)
    cpu, cores = machine.processor(), machine.usable_cores()
    if where.type == "cuda":
        return _describe_cuda(where, cores, cpu.features)
    total, available = machine.memory()
    if where.type == "mps":
        return Device(
            "mps", cpu.name, cores, cpu.features, "", total, available, ("float32", "float16")
        )
    return Device(
        "cpu", cpu.name, cores, cpu.features, "", total, available, _fast_on_cpu(cpu.features)
    )


def _resolve(device: DeviceLike) -> torch.device:
    """A device with its index where it has one, so that "cuda" and "cuda:0" are one."""
    import torch

    if device is None:
        device = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise SdaccelError(
            f"{device!r} names no device; give 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error
    if where.type == "cpu":
        return torch.device("cpu")
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if where.type not in available:
        raise SdaccelError(
            f"sdaccel knows no {where.type} devices; move the pipe to 'cpu', 'cuda' or 'mps'."
        )
    if not available[where.type]():
        raise SdaccelError(
            f"There is no {where.type} device here that this torch can use; move the pipe to 'cpu'."
        )
    if where.type == "mps":
        return torch.device("mps")
    index = torch.cuda.current_device() if where.index is None else where.index
    if index >= torch.cuda.device_count():
        raise SdaccelError(
            f"There is no cuda:{index} here, only {torch.cuda.device_count()} devices."
        )
    return torch.device("cuda", index)


def _describe_cuda(where: torch.device, cores: int, features: tuple[str, ...]) -> Device:
    """ROCm builds answer to torch.cuda too, with a gcnArchName ("gfx942:sramecc+:xnack-")."""
    import torch

    properties = torch.cuda.get_device_properties(where)
    free, total = torch.cuda.mem_get_info(where)
    if torch.version.hip is None:
        kind, architecture = "cuda", f"sm_{properties.major}{properties.minor}"
    else:
        kind, architecture = "rocm", str(properties.gcnArchName).split(":")[0]
    dtypes = _fast_on_gpu(architecture)
    return Device(kind, properties.name, cores, features, architecture, total, free, dtypes)


def _fast_on_cpu(features: tuple[str, ...]) -> tuple[str, ...]:
    """fp32 always; a 16- or 8-bit type where an instruction multiplies it."""
    units = {
        "bfloat16": {"avx512_bf16", "amx_bf16", "bf16", "svebf16"},
        "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
        "int8": {"avx_vnni", "avx512_vnni", "amx_int8", "i8mm", "asimddp"},
    }
    return ("float32", *(dtype for dtype, any_of in units.items() if any_of & set(features)))


def _fast_on_gpu(architecture: str) -> tuple[str, ...]:
    """The dtypes of an architecture's matrix units, after the vendors' instruction set manuals."""
    if architecture.startswith("sm_"):
        return _fast_on_nvidia(int(architecture[3:]))
    if architecture.startswith(("gfx94", "gfx95", "gfx12")):
        fp8 = "float8_e4m3fnuz" if architecture.startswith("gfx94") else "float8_e4m3fn"
        return ("float32", "float16", "bfloat16", fp8, "int8")
    if architecture.startswith(("gfx908", "gfx90a", "gfx11")):
        return ("float32", "float16", "bfloat16", "int8")
    return ("float32", "float16")


def _fast_on_nvidia(capability: int) -> tuple[str, ...]:
    since = {"float16": 70, "int8": 75, "bfloat16": 80, "float8_e4m3fn": 89}
    return ("float32", *(dtype for dtype, first in since.items() if capability >= first))


def faster_dtype(
    device: DeviceLike = None, ceiling: Callable[[torch.dtype], float] | None = None
) -> DtypeChoice:
    """The 16-bit dtype that `device` computes at least 1.3 times as fast as float32, or float32.

    GPUs are judged by their architecture, everything else by `ceiling` (FLOP/s of a dtype; default:
    `matmul_ceiling`). bfloat16 goes first: it has float32's range, and float16 overflows in some
    VAEs.
    """
    import torch

    where = _resolve(device)
    if where.type == "cuda":
        return _faster_on_gpu(describe(where))
    measure = ceiling or functools.partial(matmul_ceiling, where)
    fast = describe(where).fast_dtypes
    full = measure(torch.float32)
    rates = {dtype: measure(dtype) for dtype in (torch.bfloat16, torch.float16)}
    for dtype, rate in rates.items():
        # A busy machine can time float32 at a thousandth of its rate: a dtype has to have its own
        # instructions as well before a measurement is believed.
        if rate >= _WORTHWHILE * full and _name(dtype) in fast:
            measured = (
                f"{_name(dtype)} runs at {_tera(rate)} TFLOP/s here, float32 at {_tera(full)}"
            )
            return DtypeChoice(dtype, measured)
    best = max(rates, key=lambda dtype: rates[dtype])
    measured = f"{_name(best)} reaches {_tera(rates[best])} TFLOP/s, float32 {_tera(full)}"
    shortfall = "has its own instructions and is" if rates[best] >= _WORTHWHILE * full else "is"
    return DtypeChoice(
        torch.float32,
        f"no 16-bit dtype {shortfall} {_WORTHWHILE} times as fast as float32 here: {measured}",
    )


def _faster_on_gpu(device: Device) -> DtypeChoice:
    import torch

    for dtype in (torch.bfloat16, torch.float16):
        if _name(dtype) in device.fast_dtypes:
            return DtypeChoice(dtype, f"{device.architecture} has matrix units for {_name(dtype)}")
    return DtypeChoice(
        torch.float32, f"{device.architecture} has no matrix units for a 16-bit dtype"
    )


def matmul_ceiling(device: DeviceLike, dtype: torch.dtype) -> float:
    """FLOP/s of the best square matmul of random numbers within half a second; measured once.

    Under the thread count and the TF32 setting of the first call. Raises SdaccelError for a dtype
    without a matmul.
    """
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise SdaccelError(
            f"matmul_ceiling measures floating point of 16 bits and more, not {dtype}."
        )
    return _measured_matmul(_resolve(device), dtype)


def copy_ceiling(device: DeviceLike) -> float:
    """Bytes a second, read plus written, of the best large copy; measured once per process.

    The shortest of 3 to 100 copies within 0.4 seconds, from one buffer to another. Each buffer is
    twice the last-level caches of the cores that this process may use, within 128 MiB and 1 GiB:
    were both within a cache, as 128 MiB are in the 480 of a Xeon, that would be measured. On a GPU
    it is 1 GiB. An untimed copy goes before, so that no page is touched for the first time. What
    counts besides is the thread count of the first call, and who else reads the memory meanwhile:
    on a shared machine it is a lower bound.
    """
    return _measured_copy(_resolve(device))


@functools.cache
def _measured_matmul(where: torch.device, dtype: torch.dtype) -> float:
    """Double the size until the next would take too long: dtypes differ up to 400 times.

    The next size's time is what this one took and eight times what it took more than the last:
    on a busy machine the threads' meeting alone takes 50 ms, at any size, and is no work.
    """
    size, largest = (64, 2048) if where.type == "cpu" else (512, 8192)
    last = seconds = _matmul_seconds(where, dtype, size)
    best = 2 * size**3 / seconds
    while size < largest and (seconds + 8 * max(0.0, seconds - last)) * _calls(where) < 0.1:
        size *= 2
        last, seconds = seconds, _matmul_seconds(where, dtype, size)
        best = max(best, 2 * size**3 / seconds)
    return best


def _matmul_seconds(where: torch.device, dtype: torch.dtype, size: int) -> float:
    import torch

    with torch.inference_mode():
        left, right = _random(where, 2, size, size).to(dtype)
        out = torch.empty_like(left)
        return _best_seconds(lambda: torch.mm(left, right, out=out), where)


@functools.cache
def _measured_copy(where: torch.device) -> float:
    import torch

    size = _copy_bytes(where)
    with torch.inference_mode():
        source = _random(where, 1 << 20).repeat(size >> 22)
        target = torch.empty_like(source)
        copy = functools.partial(target.copy_, source)
        return 2 * size / _best_seconds(copy, where, budget=0.4, least=3, most=100)


def _copy_bytes(where: torch.device) -> int:
    """The size of a buffer, a multiple of 4 MiB: 1 GiB on a GPU is 20 times an H200's L2."""
    if where.type != "cpu":
        return 1 << 30
    wanted = min(max(128 << 20, 2 * machine.last_level_cache()), 1 << 30)
    _, available = machine.memory()
    if available:
        wanted = min(wanted, available // 8)
    return max(1, wanted >> 22) << 22


def _random(where: torch.device, *shape: int) -> torch.Tensor:
    """Normal numbers from a generator of their own: on a GPU zeros would run faster than data."""
    import torch

    return torch.randn(*shape, device=where, generator=torch.Generator(where).manual_seed(0))


def _best_seconds(
    step: Callable[[], object],
    where: torch.device,
    budget: float = 0.1,
    least: int = 2,
    most: int = 20,
) -> float:
    """The shortest of `least` to `most` timings within a budget of seconds, after a warm-up."""
    import torch

    calls = _calls(where)

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            step()
        if where.type != "cpu":
            torch.accelerator.synchronize(where)
        return time.perf_counter() - start

    timed()
    timings: list[float] = []
    while len(timings) < least or (len(timings) < most and sum(timings) < budget):
        timings.append(timed())
    return min(timings) / calls


def _calls(where: torch.device) -> int:
    """Calls in one timing: a GPU gets several, to hide the launch."""
    return 1 if where.type == "cpu" else 10


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tera(rate: float) -> str:
    """FLOP/s as TFLOP/s with two significant digits: 2.1, 0.30, 0.0003."""
    return f"{rate / 1e12:.2g}" if rate < 1e11 else f"{rate / 1e12:.2f}"
