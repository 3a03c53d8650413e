"""Who computes an op: the kernel, or plain torch with a reason; and what torch.compile sees."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from kernel_checks import noise, on_a_cpu

from sdaccel.errors import SdaccelWarning
from sdaccel.kernels import norm_modulate as module
from sdaccel.kernels import operator
from sdaccel.kernels.norm_modulate import norm_modulate
from sdaccel.kernels.operator import UnsupportedError

OP = operator.operators()["norm_modulate"]


@pytest.fixture(autouse=True)
def fresh_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("runs", Counter()), ("reasons", Counter()), ("_failed", {})):
        monkeypatch.setattr(OP, name, value)


class CompilationError(Exception):
    """As Triton's own: what makes it one is its module."""


CompilationError.__module__ = "triton.compiler.errors"


def failing(error: Exception) -> Any:
    def launch(*_: Any) -> Any:
        raise error

    return launch


def test_input_beyond_a_kernel_s_limits_takes_plain_torch_with_one_warning() -> None:
    x = noise(1, 2, module_limit() + 1)
    with pytest.warns(SdaccelWarning, match="more than 16384 channels"):
        found = norm_modulate(x)
    norm_modulate(x)
    torch.testing.assert_close(found, torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6))
    assert OP.runs == {"reference": 2}
    assert OP.reasons == {"more than 16384 channels": 2}


def module_limit() -> int:
    from sdaccel.kernels.rows import MOST_CHANNELS

    return MOST_CHANNELS


def test_a_kernel_that_does_not_compile_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def launch(*arguments: Any) -> Any:
        calls.append(arguments)
        raise CompilationError("no such instruction\n  somewhere")

    monkeypatch.setattr(OP, "launch", launch)
    with pytest.warns(SdaccelWarning, match="CompilationError no such instruction"):
        norm_modulate(noise(1, 2, 8))
    norm_modulate(noise(1, 2, 8))
    assert len(calls) == 1
    assert OP.runs == {"reference": 2}


def test_another_s_error_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OP, "launch", failing(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        norm_modulate(noise(1, 2, 8))


def test_a_device_without_kernels_takes_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "unavailable", lambda _: "the GPU is too old")
    with pytest.warns(SdaccelWarning, match="the GPU is too old"):
        norm_modulate(noise(1, 2, 8))
    assert OP.runs == {"reference": 1}


@on_a_cpu
def test_without_the_interpreter_a_cpu_takes_plain_torch_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OP, "_interpreted", False)
    norm_modulate(noise(1, 2, 8))
    assert OP.runs == {"reference": 1}
    assert not OP.reasons


@on_a_cpu
def test_on_a_cpu_machine_code_goes_first_and_leaves_the_rest_to_plain_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def native(x: torch.Tensor, *_: Any) -> torch.Tensor:
        if x.shape[0] > 1:
            raise UnsupportedError("more than one sample")
        return torch.full_like(x, 7)

    monkeypatch.setattr(OP, "_interpreted", False)
    monkeypatch.setattr(OP, "native", native)
    assert (norm_modulate(noise(1, 2, 8)) == 7).all()
    x = noise(2, 2, 8)
    torch.testing.assert_close(norm_modulate(x), torch.nn.functional.layer_norm(x, (8,), eps=1e-6))
    assert OP.runs == {"native": 1, "reference": 1}
    assert OP.reasons == {"more than one sample": 1}


@on_a_cpu
@pytest.mark.parametrize(
    ("interpreted", "native", "nodes"), [(True, None, 1), (False, None, 0), (False, print, 1)]
)
def test_on_a_cpu_compilers_see_plain_torch_but_for_machine_code(
    monkeypatch: pytest.MonkeyPatch, interpreted: bool, native: Any, nodes: int
) -> None:
    monkeypatch.setattr(OP, "_interpreted", interpreted)
    monkeypatch.setattr(OP, "native", native)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return lambda *inputs: (inputs[0],)

    torch.compile(norm_modulate, backend=backend, fullgraph=True)(noise(1, 2, 8))
    assert sum("sdaccel" in name for name in seen) == nodes
    torch._dynamo.reset()


def test_unsupported_is_raised_before_anything_is_launched() -> None:
    with operator.recorded() as launches, pytest.raises(UnsupportedError):
        module._run(noise(1, 1, 20000), None, None, None, None, "layer", 1e-6)
    assert launches == []


def test_tma_loads_what_is_aligned_and_not_expanded() -> None:
    packed = noise(2, 3, 4, 40, dtype=torch.float16)
    assert operator.takes_boxes(packed, packed.transpose(1, 2), packed[:, 1:, :, 8:])
    assert operator.takes_boxes(noise(1, 1, 1, 3))
    for refused in (
        packed[..., 1:],
        packed.transpose(2, 3),
        packed[:, :1].expand(-1, 3, -1, -1),
        packed[:0],
        noise(2, 3, 4, 41, dtype=torch.float16)[..., :40],
    ):
        assert not operator.takes_boxes(packed, refused)
