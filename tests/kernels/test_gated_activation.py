"""gated_activation and activation: against diffusers' own modules, and against the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.activations import GEGLU, GELU, ApproximateGELU, LinearActivation, SwiGLU
from diffusers.models.transformers.transformer_flux2 import Flux2SwiGLU
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_near, assert_traceable, kernel_runs, noise

from sdaccel.errors import ArgumentError
from sdaccel.kernels.activations import ACTIVATIONS
from sdaccel.kernels.gated_activation import (
    activated_product,
    activated_product_cost,
    activated_product_reference,
    activation,
    activation_cost,
    activation_reference,
    gated_activation,
    gated_activation_cost,
    gated_activation_reference,
)

FORMULAS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": lambda x: x * torch.special.ndtr(x),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": lambda x: x * torch.sigmoid(x),
    "relu_squared": lambda x: x.clamp_min(0).square(),
}


def truth(x: torch.Tensor, act: str, gate_first: bool | None = None) -> torch.Tensor:
    """Spelled out in float64; gate_first of None: no gate."""
    if gate_first is None:
        return FORMULAS[act](x.double())
    a, b = x.double().chunk(2, dim=-1)
    return FORMULAS[act](a) * b if gate_first else a * FORMULAS[act](b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("channels", [1, 40, 333, 1280])
def test_it_is_the_activation(channels: int, act: Any, dtype: torch.dtype) -> None:
    x = 2 * noise(2, 3, channels, dtype=dtype)
    with kernel_runs("activation"):
        found = activation(x, activation=act)
    assert found.dtype == dtype
    assert_near(found, truth(x, act))
    assert_near(activation_reference(x, None, act), truth(x, act))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gate_first", [False, True])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_one_half_gates_the_other(act: Any, gate_first: bool, dtype: torch.dtype) -> None:
    x = 2 * noise(2, 7, 2 * 72, dtype=dtype)
    with kernel_runs("gated_activation"):
        found = gated_activation(x, activation=act, gate_first=gate_first)
    assert found.dtype == dtype
    assert_near(found, truth(x, act, gate_first))
    reference = gated_activation_reference(x, None, act, gate_first)
    assert_near(reference, truth(x, act, gate_first), times=1.5)  # rounds twice, as stock does


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bias_comes_first_and_is_not_rounded(dtype: torch.dtype) -> None:
    x, bias = noise(2, 3, 48, dtype=dtype), noise(48, dtype=dtype, seed=1)
    true = x.double() + bias.double()
    assert_near(activation(x, bias), truth(true, "gelu"))
    assert_near(gated_activation(x, bias), truth(true, "gelu", False))
    assert_near(activation_reference(x, bias, "silu"), truth(true, "silu"))
    assert_near(gated_activation_reference(x, bias, "silu", True), truth(true, "silu", True))


@pytest.mark.parametrize(
    ("module", "act"),
    [
        (GELU(24, 40), "gelu"),
        (GELU(24, 40, approximate="tanh"), "gelu_tanh"),
        (ApproximateGELU(24, 40), "gelu_quick"),
        (LinearActivation(24, 40, activation="silu"), "silu"),
        (GEGLU(24, 40), "gelu"),
        (SwiGLU(24, 40), "silu"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, torch.nn.Module) else each,
)
@torch.no_grad()
def test_it_gives_what_diffusers_modules_give(module: torch.nn.Module, act: Any) -> None:
    x, gated = noise(2, 5, 24), isinstance(module, (GEGLU, SwiGLU))
    module.to(x.device)
    op = gated_activation if gated else activation
    with kernel_runs("gated_activation" if gated else "activation", times=2):
        whole = op(module.proj(x), activation=act)
        biased = op(x @ module.proj.weight.T, module.proj.bias, activation=act)
    assert_near(whole, module(x))
    assert_near(biased, module(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_one_projection_gates_another(act: Any, dtype: torch.dtype) -> None:
    gate, value = 2 * noise(2, 7, 72, dtype=dtype), noise(7, 2, 72, dtype=dtype, seed=1)
    value = value.transpose(0, 1)
    with kernel_runs("activated_product"):
        found = activated_product(gate, value, activation=act)
    assert found.dtype == dtype
    true = FORMULAS[act](gate.double()) * value.double()
    assert_near(found, true)
    assert_near(activated_product_reference(gate, value, act), true, times=1.5)
    assert activated_product_cost(gate, value).bytes == 3 * gate.numel() * gate.element_size()


def test_projections_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ArgumentError, match="value has shape"):
        activated_product(noise(2, 3, 8), noise(2, 3, 16))
    with pytest.raises(ArgumentError, match="activation"):
        activated_product(noise(2, 8), noise(2, 8), activation="tanh")  # type: ignore[arg-type]


def test_flux2_has_its_gate_first() -> None:
    x = noise(2, 5, 48)
    assert_near(gated_activation(x, activation="silu", gate_first=True), Flux2SwiGLU()(x))


@pytest.mark.parametrize("how", ["transposed", "sliced", "channels apart", "repeated", "no batch"])
def test_strides_of_every_kind(how: str) -> None:
    x = {
        "transposed": noise(5, 2, 24).transpose(0, 1),
        "sliced": noise(2, 9, 72)[:, 1:6, 24:48],
        "channels apart": noise(2, 24, 5).transpose(1, 2),
        "repeated": noise(2, 1, 24).expand(2, 5, 24),
        "no batch": noise(48)[::2],
    }[how]
    with kernel_runs("gated_activation"):
        found = gated_activation(x)
    assert found.is_contiguous()
    assert_near(found, truth(x, "gelu", False))
    assert_near(activation(x, noise(48)[::2], activation="silu"), truth(x + noise(48)[::2], "silu"))


def test_the_reference_takes_strides_and_many_rows() -> None:
    x = noise(2, 40, 9000)[:, ::2, 100:8292]  # more than one thread's piece
    assert_near(activation_reference(x, None, "gelu_tanh"), truth(x, "gelu_tanh"))
    found = gated_activation_reference(x, None, "gelu_tanh", False)
    assert_near(found, truth(x, "gelu_tanh", False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "gelu_quick", "silu"])
def test_large_values_stay_finite(act: Any, dtype: torch.dtype) -> None:
    large = 6e4 if dtype == torch.float16 else 1e9
    x = torch.tensor([-large, -3e3, -90.0, -20.0, -0.0, 0.0, 20.0, 3e3, large], dtype=dtype)
    for found in (activation(x, activation=act), activation_reference(x, None, act)):
        torch.testing.assert_close(found.double(), truth(x, act), rtol=8e-3, atol=1e-7)
    gated = gated_activation(torch.cat([torch.ones_like(x), x]), activation=act)
    torch.testing.assert_close(gated.double(), truth(x, act), rtol=8e-3, atol=1e-7)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_what_is_not_a_number_stays_so(act: Any) -> None:
    x = torch.tensor([float("nan"), 1.0])
    for found in (activation(x, activation=act), activation_reference(x, None, act)):
        assert found.isnan().tolist() == [True, False]


@pytest.mark.parametrize("shape", [(0, 4, 32), (2, 0, 32), (0, 3, 5, 32), (2, 3, 0)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    half = (*shape[:-1], shape[-1] // 2)
    for act in ("gelu", "gelu_tanh"):
        assert activation(torch.zeros(shape), activation=act).shape == shape
        assert activation_reference(torch.zeros(shape), None, act).shape == shape
        assert gated_activation(torch.zeros(shape), activation=act).shape == half
        assert gated_activation_reference(torch.zeros(shape), None, act, True).shape == half


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=0, max_size=3),
    st.integers(1, 300),
    st.sampled_from(ACTIVATIONS),
    st.booleans(),
)
def test_any_shape(before: list[int], channels: int, act: Any, gate_first: bool) -> None:
    x = noise(*before, 2 * channels)
    found = gated_activation(x, activation=act, gate_first=gate_first)
    assert_near(found, truth(x, act, gate_first), times=2)
    assert_near(activation(x, activation=act), truth(x, act), times=2)


def test_it_compiles_into_one_graph() -> None:
    assert_traceable(gated_activation, noise(2, 3, 32), noise(32, seed=1))
    assert_traceable(activation, noise(2, 3, 32), activation="gelu_tanh")


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_compilers_see_the_reference_in_one_piece(act: Any) -> None:
    x = noise(2, 4, 70_000, dtype=torch.bfloat16)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(activation_reference, backend=backend, fullgraph=True)
    assert_near(compiled(x, None, act), truth(x, act))
    assert len(graphs[0].graph.nodes) < 12
    torch._dynamo.reset()


def test_the_cost_is_that_of_three_values_a_result() -> None:
    x = noise(2, 3, 32, dtype=torch.bfloat16)
    assert gated_activation_cost(x).bytes == 2 * 3 * 16 * 6
    assert activation_cost(x).bytes == 2 * 3 * 32 * 4


@pytest.mark.parametrize(
    ("op", "arguments", "named", "words"),
    [
        (gated_activation, (noise(2, 3, 7),), {}, "an even number, not 7"),
        (gated_activation, (noise(2, 3, 8), noise(4)), {}, r"bias has shape \[4\]; \[8\] was"),
        (activation, (noise(2, 3, 8).double(),), {}, "hidden_states is fp16, bf16 or fp32"),
        (activation, (noise(2, 8),), {"activation": "mish"}, "activation is one of 'gelu', "),
        (activation, (torch.tensor(1.0),), {}, "not a single value"),
        (activation, (noise(2, 8), torch.zeros(8, device="meta")), {}, "bias is on meta"),
    ],
)
def test_bad_input_is_named(op: Any, arguments: Any, named: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        op(*arguments, **named)
