"""Inline arithmetic of blocks: where it is found, and that its calls mean what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_checks import noise, relative_error

from sdaccel.passes.arithmetic import PREFIX, Arithmetic
from sdaccel.passes.arithmetic_calls import gated, norm_in_fp32, sum_in_fp32, sum_with_gated
from sdaccel.passes.rewrite import rewritten, syntax_of
from sdaccel.passes.swap import RAN

CALLS = {
    PREFIX + each.__name__: each for each in (gated, sum_with_gated, sum_in_fp32, norm_in_fp32)
}
X, OUTPUT = noise(2, 5, 16), noise(2, 5, 16, seed=1)
GATE, SCALE, SHIFT = (noise(2, 1, 16, seed=seed) for seed in (2, 3, 4))


class Block(torch.nn.Module):
    """Expressions as blocks write them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(16, elementwise_affine=False)
        self.norm2 = torch.nn.LayerNorm(16)
        self.weight = torch.nn.Parameter(noise(16, seed=5))
        self.__dict__[RAN] = Counter()

    def at_once(self, x: Any, output: Any, gate: Any) -> Any:
        return x + gate * output

    def gate_behind(self, x: Any, output: Any, gate: Any) -> Any:
        return output * gate.tanh() + x

    def in_two(self, x: Any, output: Any, gate: Any) -> Any:
        output = gate * output
        return x + output

    def in_branches(self, x: Any, output: Any, gate: Any) -> Any:
        if gate.dim() == 2:
            output = gate.unsqueeze(1) * output
        elif gate.dim() == 3:
            output = gate * output
        return output + x

    def in_slices(self, x: Any, output: Any, gate: Any) -> Any:
        return torch.cat([x[:, :2] + output[:, :2] * gate, x[:, 2:]], dim=1)

    def by_way_of_fp32(self, x: Any, output: Any, gate: Any) -> Any:
        return (x.float() + output * gate).type_as(x)

    def both_by_way_of_fp32(self, x: Any, output: Any, gate: Any) -> Any:
        return (x.float() + output.float() * gate).type_as(x)

    def gate_first_by_way_of_fp32(self, x: Any, output: Any, gate: Any) -> Any:
        return (x.float() + gate.float() * output.float()).type_as(x)

    def norm_by_way_of_fp32(self, x: Any, output: Any, gate: Any) -> Any:
        return (self.norm1(x.float()) * (1 + gate) + gate).type_as(x)

    def plain_norm_by_way_of_fp32(self, x: Any, output: Any, gate: Any) -> Any:
        return self.norm2(x.float()).type_as(x)

    def modulation(self, x: Any, output: Any, gate: Any) -> Any:
        return x * (1 + gate) + gate

    def modulation_with_indices(self, x: Any, output: Any, gate: Any) -> Any:
        return x * (1 + gate)[:, :1] + gate

    def constant(self, x: Any, output: Any, gate: Any) -> Any:
        return x + 0.5 * output

    def parameter(self, x: Any, output: Any, gate: Any) -> Any:
        return x + output * self.weight

    def used_before_it_is_added(self, x: Any, output: Any, gate: Any) -> Any:
        output = gate * output
        output = output.tanh()
        return x + output


GATED = [Block.at_once, Block.gate_behind, Block.in_two, Block.in_branches, Block.in_slices]
IN_FP32 = [
    Block.by_way_of_fp32,
    Block.both_by_way_of_fp32,
    Block.gate_first_by_way_of_fp32,
    Block.norm_by_way_of_fp32,
    Block.plain_norm_by_way_of_fp32,
]
LEFT = [
    Block.modulation,
    Block.modulation_with_indices,
    Block.constant,
    Block.parameter,
    Block.used_before_it_is_added,
]


def found_in(method: Callable[..., Any]) -> Arithmetic:
    definition = syntax_of(method)
    assert definition
    return Arithmetic(definition)


def changed(method: Callable[..., Any]) -> Callable[..., Any]:
    copy = rewritten(method, Arithmetic, CALLS)
    assert copy
    return copy


@pytest.mark.parametrize("method", GATED)
@torch.no_grad()
def test_a_gated_residual_is_found_once_and_runs_in_one_pass(method: Callable[..., Any]) -> None:
    assert found_in(method).found == {"gated residual": 1}
    assert found_in(method).saved == 2
    block = Block()
    found = changed(method)(block, X, OUTPUT, GATE)
    torch.testing.assert_close(found, method(block, X, OUTPUT, GATE), rtol=1e-5, atol=1e-6)
    assert block.__dict__[RAN] == {"gated residuals in one pass": 1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", IN_FP32)
@torch.no_grad()
def test_a_round_trip_by_way_of_fp32_is_one_pass_and_as_near_to_the_truth(
    method: Callable[..., Any], dtype: torch.dtype
) -> None:
    (label,) = found_in(method).found
    assert label.endswith("by way of fp32")
    block = Block()
    truth = method(block, X, OUTPUT, GATE)
    x, output = X.to(dtype), OUTPUT.to(dtype)
    stock, found = (each(block, x, output, GATE) for each in (method, changed(method)))
    assert found.dtype == dtype
    assert block.__dict__[RAN].total() == 1
    # Triton's interpreter cuts bf16 off where a GPU rounds, which costs twice as much
    assert relative_error(found, truth) <= 2.2 * relative_error(stock, truth) + 1e-6


@pytest.mark.parametrize("method", LEFT)
def test_what_is_no_gated_residual_is_left(method: Callable[..., Any]) -> None:
    assert not found_in(method).found


@pytest.mark.parametrize(
    ("output", "gate"),
    [
        (OUTPUT, GATE[..., :1]),
        (OUTPUT.double(), GATE.double()),
        (OUTPUT[:1], GATE),
        (OUTPUT, 0.5),
        (noise(3, 1, 1, 16), noise(2, 1, 16)),
    ],
    ids=["no channels", "double", "other shape", "number", "more dimensions"],
)
@pytest.mark.parametrize("method", [Block.at_once, Block.in_two])
@torch.no_grad()
def test_what_does_not_fit_is_computed_as_it_was_written(
    method: Callable[..., Any], output: Any, gate: Any
) -> None:
    block = Block()
    found = changed(method)(block, X, output, gate)
    found = found.value() if hasattr(found, "value") else found
    torch.testing.assert_close(found, method(block, X, output, gate), rtol=0, atol=0)
    assert not block.__dict__[RAN]


def test_with_gradients_on_it_is_computed_as_it_was_written() -> None:
    block = Block()
    for method in (*GATED, *IN_FP32):
        output = OUTPUT.clone().requires_grad_()
        assert torch.equal(changed(method)(block, X, output, GATE), method(block, X, output, GATE))
    assert not block.__dict__[RAN]


@torch.no_grad()
def test_a_gate_for_each_token_and_one_of_two_dimensions_are_gates_too() -> None:
    block = Block()
    for gate in (noise(2, 5, 16, seed=6), noise(5, 16, seed=7), noise(1, 16, seed=8)):
        found = changed(Block.at_once)(block, X, OUTPUT, gate)
        torch.testing.assert_close(found, X + gate * OUTPUT, rtol=1e-5, atol=1e-6)
    assert block.__dict__[RAN] == {"gated residuals in one pass": 3}


@torch.no_grad()
def test_a_norm_with_a_hook_is_called() -> None:
    block, calls = Block(), []
    block.norm1.register_forward_hook(lambda *_: calls.append(1))
    changed(Block.norm_by_way_of_fp32)(block, X, OUTPUT, GATE)
    assert calls == [1]


def test_the_norms_that_a_block_computes_itself_are_named() -> None:
    assert found_in(Block.norm_by_way_of_fp32).norms == {"norm1"}
