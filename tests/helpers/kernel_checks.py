"""What every kernel's tests share: where they run, how near they come, and that the kernel ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sdaccel.kernels.language import interpreted
from sdaccel.kernels.native import BuildError
from sdaccel.kernels.operator import operators

DEVICE = "cpu" if interpreted() else "cuda"
"""The interpreter serves the CPU's tensors; with `pytest --gpu` kernels are compiled."""
on_a_cpu = pytest.mark.skipif(DEVICE != "cpu", reason="says what happens on a CPU")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCES = {torch.float32: 2e-6, torch.float16: 4e-4, torch.bfloat16: 5e-3}
"""Relative L2 distance from the truth in fp32: rounding the result once costs up to 3e-4 in fp16
and 2.4e-3 in bf16, where Triton's interpreter cuts off instead, which costs up to 4.5e-3."""


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Normally distributed values, the same each time and everywhere."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cpu").to(DEVICE, dtype)


@contextmanager
def no_compiler(module: Any) -> Iterator[str]:
    """Within it a module of machine code can't build its library, for the reason given."""
    reason = "no C++ compiler: install g++, or set CXX"

    def fail(*_: Any) -> Any:
        raise BuildError(reason)

    def forget() -> None:
        module.unavailable.cache_clear()
        module._function.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "library", fail)
        forget()
        yield reason
    forget()


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The L2 norm of the difference over the truth's."""
    assert found.shape == truth.shape
    distance = torch.linalg.vector_norm(found.double() - truth.double())
    return float(distance / torch.linalg.vector_norm(truth.double()).clamp_min(1e-30))


def assert_near(found: torch.Tensor, truth: torch.Tensor, times: float = 1.0) -> None:
    """`found` is no further from the fp32 truth than its dtype's tolerance, so many times."""
    assert torch.isfinite(found).all()
    error = relative_error(found, truth)
    assert error <= times * TOLERANCES[found.dtype], f"{error:.2e} in {found.dtype}"


def assert_within_a_step(found: torch.Tensor, row_scale: torch.Tensor, truth: torch.Tensor) -> None:
    """8-bit rows times their scales are the truth: within half a step, in fp8 (e4m3) within one.

    A GPU rounds fp8 too, to half a step. Triton's interpreter cuts off, and loses the carry where
    rounding reaches the next power of two (127.7 becomes 64): such values are left out here.
    """
    scaled = truth.double() / row_scale[..., None].double()
    distance = (found.double() - scaled).abs()
    if found.dtype == torch.int8:
        assert distance.max() <= 0.501
        return
    rounded = scaled.to(found.dtype).double().abs()
    carried = (torch.frexp(rounded).mantissa == 0.5) & (rounded > scaled.abs())
    assert carried.float().mean() < 0.1
    assert ((distance <= scaled.abs() * 2**-3 + 2**-9) | carried).all()


@contextmanager
def kernel_runs(name: str, times: int = 1) -> Iterator[None]:
    """Within it the op's kernel runs so often, and its reference never."""
    before = _runs_of(name)
    yield
    after = _runs_of(name)
    ran = {key: after[key] - before[key] for key in ("kernel", "reference")}
    assert ran == {"kernel": times, "reference": 0}


def _runs_of(name: str) -> Counter[str]:
    """What has run of an op; nothing where its file was not imported yet."""
    operator = operators().get(name)
    return Counter() if operator is None else Counter(operator.runs)


def assert_traceable(op: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """`torch.compile` sees the op as part of one graph, and it gives the same."""
    expected = op(*arguments, **named)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments, **named), expected)
