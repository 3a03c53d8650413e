"""linear and gated_linear: against diffusers' own modules, and against the truth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.activations import GEGLU
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import (
    DTYPES,
    assert_near,
    assert_traceable,
    kernel_runs,
    noise,
    on_a_cpu,
    relative_error,
)

from sdaccel.errors import ArgumentError
from sdaccel.kernels import operator
from sdaccel.kernels.activations import ACTIVATIONS
from sdaccel.kernels.ahead import CHIPS
from sdaccel.kernels.linear import (
    gated_linear,
    gated_linear_cost,
    gated_linear_reference,
    linear,
    linear_cost,
    linear_reference,
)

FORMULAS = {
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": torch.nn.functional.silu,
    "relu_squared": lambda x: x.relu().square(),
}


def truth(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    gate: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Spelled out in float64; gate (B, 1 or S, N)."""
    y = x.double() @ weight.double().T
    y = y if bias is None else y + bias.double()
    y = y if activation is None else FORMULAS[activation](y)
    y = y if gate is None else y * gate.double()
    return y if residual is None else y + residual.double()


def gated_truth(
    x: torch.Tensor, weight: torch.Tensor, bias: Any, activation: str, gate_first: bool
) -> torch.Tensor:
    a, b = truth(x, weight, bias).chunk(2, dim=-1)
    act = FORMULAS[activation]
    return act(a) * b if gate_first else a * act(b)


def a_weight(outputs: int, inputs: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (noise(outputs, inputs, seed=7) * inputs**-0.5).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 8, 1), (5, 40, 33), (130, 72, 320), (17, 1, 16)]
)
def test_it_is_the_product_with_everything_after_it(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype
) -> None:
    x, weight = noise(2, rows, inputs, dtype=dtype), a_weight(outputs, inputs, dtype)
    bias, residual = noise(outputs, dtype=dtype, seed=1), noise(2, rows, outputs, dtype=dtype)
    gate = noise(2, outputs, dtype=dtype, seed=3)
    with kernel_runs("linear", times=2):
        plain = linear(x, weight)
        whole = linear(x, weight, bias, activation="gelu", gate=gate, residual=residual)
    assert plain.dtype == whole.dtype == dtype
    assert_near(plain, truth(x, weight))
    assert_near(whole, truth(x, weight, bias, "gelu", gate[:, None], residual))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation(activation: Any, dtype: torch.dtype) -> None:
    x, weight = noise(2, 7, 40, dtype=dtype), a_weight(24, 40, dtype)
    bias = noise(24, dtype=dtype, seed=1)
    with kernel_runs("linear"):
        found = linear(x, weight, bias, activation=activation)
    assert_near(found, truth(x, weight, bias, activation))
    reference = linear_reference(x, weight, bias, activation, None, None)
    assert_near(reference, truth(x, weight, bias, activation), times=1.5)


@pytest.mark.parametrize(
    "shape", [(24,), (2, 24), (2, 1, 24), (2, 7, 24), (1, 7, 24)], ids=lambda shape: str(shape)
)
def test_a_gate_is_per_sample_or_per_token(shape: tuple[int, ...]) -> None:
    x, weight, gate = noise(2, 7, 16), a_weight(24, 16), noise(*shape, seed=3)
    residual = noise(2, 7, 24, seed=4)
    wide = gate[:, None] if gate.dim() == 2 else gate
    assert_near(linear(x, weight, gate=gate), truth(x, weight, gate=wide))
    whole = truth(x, weight, gate=wide, residual=residual)
    assert_near(linear(x, weight, gate=gate, residual=residual), whole)
    assert_near(linear_reference(x, weight, None, None, gate, residual), whole)
    assert_near(linear_reference(x, weight, None, None, gate, None), truth(x, weight, gate=wide))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gate_first", [False, True])
@pytest.mark.parametrize(("outputs", "activation"), [(1, "silu"), (40, "gelu"), (150, "gelu_tanh")])
def test_one_half_gates_the_other(
    outputs: int, activation: Any, gate_first: bool, dtype: torch.dtype
) -> None:
    x, weight = noise(2, 7, 40, dtype=dtype), a_weight(2 * outputs, 40, dtype)
    bias = noise(2 * outputs, dtype=dtype, seed=1)
    with kernel_runs("gated_linear"):
        found = gated_linear(x, weight, bias, activation=activation, gate_first=gate_first)
    true = gated_truth(x, weight, bias, activation, gate_first)
    assert_near(found, true)
    reference = gated_linear_reference(x, weight, bias, activation, gate_first)
    assert_near(reference, true, times=2)  # rounds three times, as stock does


@torch.no_grad()
def test_it_gives_what_diffusers_geglu_gives() -> None:
    module, x = GEGLU(24, 40), noise(2, 5, 24)
    module.to(x.device)
    with kernel_runs("gated_linear"):
        found = gated_linear(x, module.proj.weight, module.proj.bias)
    assert_near(found, module(x))


@pytest.mark.parametrize("how", ["transposed", "sliced", "channels apart", "repeated", "flat"])
def test_strides_of_every_kind(how: str) -> None:
    x = {
        "transposed": noise(5, 2, 24).transpose(0, 1),
        "sliced": noise(2, 9, 72)[:, 1:6, 24:48],
        "channels apart": noise(2, 24, 5).transpose(1, 2),
        "repeated": noise(2, 1, 24).expand(2, 5, 24),
        "flat": noise(10, 48)[:, ::2],
    }[how]
    weight = a_weight(24, 33).T[:32]  # (32, 24), inputs apart
    residual = noise(2, 9, 32, seed=5)[:, 2:7] if x.dim() == 3 else noise(32, 10, seed=5).T
    with kernel_runs("linear"):
        found = linear(x, weight, noise(64)[::2], residual=residual)
    assert found.is_contiguous()
    assert_near(found, truth(x, weight, noise(64)[::2], residual=residual))


def test_more_dimensions_are_rows_too() -> None:
    x, weight = noise(2, 3, 5, 24), a_weight(16, 24)
    gate = noise(2, 16, seed=2)
    assert_near(linear(x, weight, gate=gate), truth(x, weight, gate=gate[:, None, None]))


@contextlib.contextmanager
def chip(name: str) -> Iterator[None]:
    """Within it kernels are cut as for this chip."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operator, "chip_of", lambda _: name)
        yield


@on_a_cpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_s_tiles_are_right(name: str, dtype: torch.dtype) -> None:
    x, weight = noise(2, 70, 144, dtype=dtype), a_weight(264, 144, dtype)
    gate, residual = noise(2, 264, dtype=dtype, seed=3), noise(2, 70, 264, dtype=dtype, seed=4)
    halves = a_weight(2 * 136, 144, dtype)
    with chip(name), kernel_runs("linear"), kernel_runs("gated_linear"):
        whole = linear(x, weight, activation="silu", gate=gate, residual=residual)
        half = gated_linear(x, halves, activation="silu")
    assert_near(whole, truth(x, weight, None, "silu", gate[:, None], residual))
    assert_near(half, gated_truth(x, halves, None, "silu", False))


@on_a_cpu
@pytest.mark.parametrize("inputs", [144, 132])
def test_rows_that_do_not_begin_at_16_bytes_are_loaded_by_threads(inputs: int) -> None:
    x, weight = noise(3, 20, inputs, dtype=torch.float16), a_weight(40, inputs, torch.float16)
    with chip("sm_90"), kernel_runs("linear", times=2):
        found = linear(x, weight)
        apart = linear(noise(3, 30, inputs, dtype=torch.float16)[:, :20], weight)
    assert_near(found, truth(x, weight))
    assert_near(apart, truth(noise(3, 30, inputs, dtype=torch.float16)[:, :20], weight))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 100),
    st.integers(1, 150),
    st.sampled_from((None, *ACTIVATIONS)),
    st.booleans(),
    st.booleans(),
)
def test_any_shape(
    before: list[int], inputs: int, outputs: int, activation: Any, gated: bool, added: bool
) -> None:
    x, weight = noise(*before, inputs), a_weight(outputs, inputs)
    gate = noise(outputs, seed=2) if gated else None
    residual = noise(*before, outputs, seed=3) if added else None
    found = linear(x, weight, activation=activation, gate=gate, residual=residual)
    assert_near(found, truth(x, weight, None, activation, gate, residual), times=2)


@pytest.mark.parametrize("shape", [(0, 4, 32), (2, 0, 32)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    wide = (*shape[:-1], 16)
    weight = torch.zeros(16, 32)
    assert linear(torch.zeros(shape), weight).shape == wide
    assert gated_linear(torch.zeros(shape), weight).shape == (*shape[:-1], 8)
    assert linear(torch.ones(2, 3, 32), torch.zeros(0, 32)).shape == (2, 3, 0)


def test_large_values_stay_finite() -> None:
    x = torch.full((1, 2, 64), 300.0, dtype=torch.float16)
    weight = torch.ones(8, 64, dtype=torch.float16)  # sums of 19,200
    residual = torch.full((1, 2, 8), 4e4, dtype=torch.float16)
    assert_near(linear(x, weight, residual=residual), truth(x, weight, residual=residual))
    found = linear(x, -weight, activation="gelu_tanh")
    assert torch.equal(found, torch.zeros_like(found))


def test_sums_are_rounded_once() -> None:
    x, weight = noise(1, 64, 256, dtype=torch.float16), a_weight(64, 256, torch.float16)
    gate, residual = noise(64, dtype=torch.float16), noise(1, 64, 64, dtype=torch.float16, seed=9)
    true = truth(x, weight, None, "silu", gate, residual)
    ours = linear(x, weight, activation="silu", gate=gate, residual=residual)
    stock = residual + gate * torch.nn.functional.silu(torch.nn.functional.linear(x, weight))
    assert relative_error(ours, true) < relative_error(stock, true)


def test_it_compiles_into_one_graph() -> None:
    x, weight = noise(2, 3, 32), a_weight(16, 32)
    assert_traceable(linear, x, weight, gate=noise(2, 16), residual=noise(2, 3, 16))
    assert_traceable(gated_linear, x, weight, noise(16), activation="silu", gate_first=True)


def test_no_gradient_is_promised() -> None:
    with pytest.raises(RuntimeError, match="linear has no gradient"):
        linear(noise(2, 3, 8).requires_grad_(), a_weight(4, 8))


def test_the_cost_is_that_of_one_pass_and_the_product() -> None:
    x, weight = noise(2, 3, 32, dtype=torch.bfloat16), a_weight(16, 32, torch.bfloat16)
    residual = noise(2, 3, 16, dtype=torch.bfloat16)
    cost = linear_cost(x, weight, residual=residual)
    assert cost.bytes == 2 * (6 * 32 + 16 * 32 + 6 * 16 + 6 * 16)
    assert cost.flops == 2 * 6 * 16 * 32 + 14 * 6 * 16
    assert gated_linear_cost(x, weight).bytes == 2 * (6 * 32 + 16 * 32 + 6 * 8)


@pytest.mark.parametrize(
    ("op", "arguments", "named", "words"),
    [
        (linear, (noise(2, 3, 8), noise(4, 7)), {}, r"weight has shape \[4, 7\]; \[-1, 8\] was"),
        (linear, (noise(2, 3, 8), noise(4, 8), noise(3)), {}, r"bias has shape \[3\]; \[4\] was"),
        (linear, (noise(8), noise(4, 8)), {}, r"hidden_states is \(B, ..., K\)"),
        (linear, (noise(2, 8).double(), noise(4, 8)), {}, "hidden_states is fp16, bf16 or fp32"),
        (linear, (noise(2, 8), noise(4, 8).half()), {}, "give both in one dtype"),
        (linear, (noise(2, 8), noise(4, 8)), {"activation": "mish"}, "activation is one of None"),
        (linear, (noise(2, 3, 8), noise(4, 8)), {"gate": noise(3, 4)}, "gate has shape"),
        (linear, (noise(2, 3, 8), noise(4, 8)), {"residual": noise(2, 3, 5)}, "residual has shape"),
        (linear, (noise(2, 8), torch.zeros(4, 8, device="meta")), {}, "weight is on meta"),
        (gated_linear, (noise(2, 3, 8), noise(5, 8)), {}, "an even number, not"),
        (gated_linear, (noise(2, 3, 8), noise(4, 8)), {"activation": None}, "activation is one of"),
    ],
)
def test_bad_input_is_named(op: Any, arguments: Any, named: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        op(*arguments, **named)
