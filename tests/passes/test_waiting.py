"""Sums that wait for their norm, in a block's source: which do, and that none leaves the block."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_checks import noise

from sdaccel.passes.arithmetic import Arithmetic
from sdaccel.passes.arithmetic_calls import TAKES
from sdaccel.passes.blocks import CALLS
from sdaccel.passes.rewrite import rewritten, syntax_of
from sdaccel.passes.swap import RAN
from sdaccel.passes.waiting import Waiting

X, OUTPUT = noise(2, 5, 16), noise(2, 5, 16, seed=1)
GATE, SCALE = noise(2, 1, 16, seed=2), noise(2, 1, 16, seed=3)
GATED, PLAIN = "gated residuals and norms in one pass", "residuals and norms in one pass"


class Around(torch.nn.Module):
    """A module around a norm, as diffusers' adaptive ones are."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(16)

    def forward(self, scale: Any, x: Any) -> Any:
        x = self.norm(x) * (1 + scale) + scale
        return x, scale


class Block(torch.nn.Module):
    """Sums and norms as blocks write them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(16, elementwise_affine=False)
        self.norm2 = torch.nn.LayerNorm(16)
        self.norm3 = around()
        self.linear = torch.nn.Linear(16, 16)
        self.__dict__[RAN] = Counter()
        self.seen: list[type] = []
        self.linear.register_forward_pre_hook(lambda _, args: self.seen.append(type(args[0])))

    def at_once(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        x = x + gate * output
        y = self.norm(x)
        y = y * (1 + scale) + scale
        return x + self.linear(y)

    def in_two(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        output = gate * output
        x = x + output
        y = self.norm(x) * (1 + scale)
        return x, y + scale

    def by_way_of_fp32(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        x = (x.float() + output.float() * gate).type_as(x)
        y = (self.norm2(x.float()) * (1 + scale) + scale).type_as(x)
        return self.linear(x), y

    def with_its_own_weights(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        x = x + gate * output
        return x + self.linear(self.norm2(x) * scale)

    def behind_conditions(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        x = x + gate * output
        if x.ndim == 4:
            x = x.squeeze(1)
        y = gate
        if scale is not None:
            y = self.norm(x) * scale + gate
        return self.linear(x), y

    def without_a_gate(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        x = output + x
        y = self.norm2(x)
        return self.linear(x) + y

    def of_a_sum(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        y = self.norm(x + gate * output)
        y = y * (1 + scale) + scale
        return x + self.linear(y)

    def norm_within_the_next_sum(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        x = x + output
        x = x + self.linear(self.norm2(x))
        return self.linear(x)

    def of_an_argument(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        y = self.norm2(x) * (1 + scale) + gate
        return self.linear(self.norm2(output) * scale) + x, y

    def by_a_module(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        x = x + gate * output
        y, scale = self.norm3(scale, x)
        return self.linear(x) - y, scale

    def used_before(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        x = x + gate * output
        x = self.linear(x)
        return self.norm(x) + scale

    def changed_in_place(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        x = x + gate * output
        y = self.norm(x) + scale
        x += y
        return x

    def in_a_loop(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        for _ in range(2):
            x = x + gate * output
            y = self.norm(x) + scale
        return x, y

    def of_two_arguments(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        x = x + gate * output
        return torch.nn.functional.layer_norm(x, (16,)) + scale

    def never_normed(self, x: Any, output: Any, gate: Any, scale: Any) -> Any:
        y = self.norm(x) + scale
        x = x + gate * output
        return x, y


WAITING = {
    Block.at_once: GATED,
    Block.in_two: GATED,
    Block.by_way_of_fp32: GATED,
    Block.with_its_own_weights: GATED,
    Block.behind_conditions: GATED,
    Block.of_a_sum: GATED,
    Block.by_a_module: GATED,
    Block.without_a_gate: PLAIN,
    Block.norm_within_the_next_sum: PLAIN,
}
AT_ONCE = [
    Block.used_before,
    Block.changed_in_place,
    Block.in_a_loop,
    Block.of_two_arguments,
    Block.never_normed,
]
Method = Callable[..., Any]


def fused(definition: ast.FunctionDef) -> Waiting:
    Arithmetic(definition)
    return Waiting(definition)


def changed(method: Method) -> Method:
    copy = rewritten(method, fused, CALLS)
    assert copy
    return copy


def around() -> Around:
    """One that knows of sums that wait."""
    definition = syntax_of(Around.forward)
    assert definition
    members = {"forward": changed(Around.forward), TAKES: fused(definition).takes}
    module: Around = type("Around", (Around,), members)()
    module.__dict__[RAN] = Counter()
    return module


def norms(method: Method) -> list[str]:
    definition = syntax_of(method)
    assert definition
    return fused(definition).norms


def assert_same(found: Any, expected: Any) -> None:
    for each, other in zip(
        *((out if isinstance(out, tuple) else (out,)) for out in (found, expected)), strict=True
    ):
        assert type(each) is torch.Tensor
        torch.testing.assert_close(each, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", WAITING)
@torch.no_grad()
def test_a_sum_and_the_norm_that_follows_are_one_pass(method: Method) -> None:
    assert len(norms(method)) == 1
    block = Block()
    found = changed(method)(block, X, OUTPUT, GATE, SCALE)
    assert_same(found, method(block, X, OUTPUT, GATE, SCALE))
    assert block.__dict__[RAN] == {WAITING[method]: 1}
    assert set(block.seen) <= {torch.Tensor}


@torch.no_grad()
def test_a_norm_of_an_argument_waits_for_its_modulation() -> None:
    definition = syntax_of(Block.of_an_argument)
    assert definition
    assert fused(definition).scaled == ["norm2", "norm2"]
    block = Block()
    found = changed(Block.of_an_argument)(block, X, OUTPUT, GATE, SCALE)
    assert_same(found, block.of_an_argument(X, OUTPUT, GATE, SCALE))
    assert block.__dict__[RAN] == {"norms fused with their modulation": 2}
    assert block.seen == [torch.Tensor] * 2


@torch.no_grad()
def test_a_scaled_norm_of_another_dtype_is_called() -> None:
    block = Block().double()
    inputs = tuple(each.double() for each in (X, OUTPUT, GATE, SCALE))
    assert_same(changed(Block.of_an_argument)(block, *inputs), block.of_an_argument(*inputs))
    assert not block.__dict__[RAN]


@pytest.mark.parametrize("method", AT_ONCE)
@torch.no_grad()
def test_a_sum_that_something_else_follows_is_computed_at_once(method: Method) -> None:
    assert not norms(method)
    block = Block()
    found = changed(method)(block, X, OUTPUT, GATE, SCALE)
    assert_same(found, method(block, X, OUTPUT, GATE, SCALE))
    assert not block.__dict__[RAN][GATED]


@torch.no_grad()
def test_on_a_way_without_the_norm_the_sum_is_a_tensor() -> None:
    block = Block()
    for output in changed(Block.behind_conditions)(block, X, OUTPUT, GATE, None):
        assert type(output) is torch.Tensor
    assert block.__dict__[RAN] == {"gated residuals in one pass": 1}


@pytest.mark.parametrize("method", WAITING)
def test_with_gradients_on_it_is_computed_as_it_was_written(method: Method) -> None:
    block = Block()
    inputs = (X, OUTPUT.clone().requires_grad_(), GATE, SCALE)
    assert_same(changed(method)(block, *inputs), method(block, *inputs))
    assert not block.__dict__[RAN]


@pytest.mark.parametrize("method", [Block.at_once, Block.of_a_sum, Block.by_a_module])
@torch.no_grad()
def test_a_norm_with_a_hook_is_called_with_the_sum(method: Method) -> None:
    block, seen = Block(), []
    for norm in (block.norm, block.norm3):
        norm.register_forward_pre_hook(lambda _, args: seen.append(args[-1]))
    changed(method)(block, X, OUTPUT, GATE, SCALE)
    assert type(seen[0]) is torch.Tensor
    torch.testing.assert_close(seen[0], X + GATE * OUTPUT)


@torch.no_grad()
def test_a_module_around_a_norm_that_is_not_fused_gets_the_sum() -> None:
    block = Block()
    block.norm3.__dict__.pop(RAN)
    seen: list[type] = []
    block.norm3.forward = lambda scale, x: seen.append(type(x)) or (x, scale)  # type: ignore
    changed(Block.by_a_module)(block, X, OUTPUT, GATE, SCALE)
    assert seen == [torch.Tensor]


@pytest.mark.parametrize("method", [*WAITING, Block.of_an_argument])
@torch.no_grad()
def test_it_compiles_into_one_graph(method: Method) -> None:
    block = Block()
    block.linear._forward_pre_hooks.clear()
    compiled = torch.compile(changed(method), fullgraph=True, backend="eager")
    inputs = (X, OUTPUT, GATE, SCALE)
    assert_same(compiled(block, *inputs), method(block, *inputs))


@torch.no_grad()
def test_on_a_cpu_what_has_no_gate_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdaccel.kernels.language.interpreted", lambda: False)
    block = Block()
    found = changed(Block.without_a_gate)(block, X, OUTPUT, GATE, SCALE)
    assert torch.equal(found, block.without_a_gate(X, OUTPUT, GATE, SCALE))
    assert not block.__dict__[RAN]
