"""A sum that waits for its norm: both in one pass, whoever asks first, and never another result."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_checks import kernel_runs, noise

from sdaccel.passes.gated import FUSED
from sdaccel.passes.summed import NormOfSum, Summed

RESIDUAL, X = noise(2, 5, 16), noise(2, 5, 16, seed=1)
GATE, SCALE, SHIFT = (noise(2, 1, 16, seed=seed) for seed in (2, 3, 4))
SUM = RESIDUAL + GATE * X
TOGETHER = "gated residuals and norms in one pass"


def layer_norm(affine: bool = False) -> torch.nn.LayerNorm:
    norm = torch.nn.LayerNorm(16, elementwise_affine=affine)
    if affine:
        torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    return norm.requires_grad_(False)


def waiting(ran: Counter[str] | None = None, gate: Any = GATE) -> Summed:
    return Summed(RESIDUAL.clone(), X.clone(), gate, Counter() if ran is None else ran)


def norm_of(total: Summed, module: torch.nn.Module) -> NormOfSum:
    norm = total.norm(module)
    assert norm is not None
    return norm


@pytest.mark.parametrize("affine", [False, True])
@torch.no_grad()
def test_a_norm_with_its_modulation_computes_the_sum_too(affine: bool) -> None:
    ran: Counter[str] = Counter()
    total, module = waiting(ran), layer_norm(affine)
    with kernel_runs("gated_residual_norm"):
        found: Any = norm_of(total, module) * (1 + SCALE) + SHIFT
    torch.testing.assert_close(found, module(SUM) * (1 + SCALE) + SHIFT)
    with kernel_runs("gated_residual", 0):
        torch.testing.assert_close(total.value(), SUM)
    assert ran == {TOGETHER: 1}


@torch.no_grad()
def test_without_a_gate_it_adds() -> None:
    ran: Counter[str] = Counter()
    total = waiting(ran, gate=None)
    torch.testing.assert_close(norm_of(total, layer_norm()).value(), layer_norm()(RESIDUAL + X))
    torch.testing.assert_close(total.value(), RESIDUAL + X)
    assert ran == {"residuals and norms in one pass": 1}
    torch.testing.assert_close(waiting(ran, gate=None).value(), RESIDUAL + X)
    assert ran.total() == 1


@torch.no_grad()
def test_asked_for_the_sum_first_the_norm_is_the_sum_s() -> None:
    ran: Counter[str] = Counter()
    total = waiting(ran)
    norm: Any = norm_of(total, layer_norm())
    torch.testing.assert_close(total.value(), SUM)
    with kernel_runs("gated_residual_norm", 0):
        torch.testing.assert_close(norm * SCALE + SHIFT, layer_norm()(SUM) * SCALE + SHIFT)
    assert ran == {FUSED: 1, "norms fused with their modulation": 1}
    assert total.norm(layer_norm()) is None


@torch.no_grad()
def test_two_norms_of_one_sum_compute_it_once() -> None:
    ran: Counter[str] = Counter()
    total = waiting(ran)
    one: Any = norm_of(total, layer_norm())
    other: Any = norm_of(total, layer_norm())
    torch.testing.assert_close(one + SHIFT, layer_norm()(SUM) + SHIFT)
    torch.testing.assert_close(other * SCALE + SHIFT, layer_norm()(SUM) * SCALE + SHIFT)
    assert ran == {TOGETHER: 1, "norms fused with their modulation": 1}


@pytest.mark.parametrize("ask", [Summed.value, lambda total: norm_of(total, layer_norm()).value()])
@torch.no_grad()
def test_what_it_was_computed_from_is_let_go(ask: Callable[[Summed], torch.Tensor]) -> None:
    residual, x, gate = RESIDUAL.clone(), X.clone(), GATE.clone()
    total = Summed(residual, x, gate, Counter())
    seen = [weakref.ref(each) for each in (residual, x, gate)]
    del residual, x, gate
    ask(total)
    assert [each() for each in seen] == [None] * 3


@pytest.mark.parametrize("which", ["residual", "output", "gate"])
def test_what_is_changed_in_place_meanwhile_is_an_error_not_another_result(which: str) -> None:
    parts = {"residual": RESIDUAL.clone(), "output": X.clone(), "gate": GATE.clone()}
    with torch.no_grad():
        sums = [Summed(*parts.values(), Counter()) for _ in range(2)]
        norm = norm_of(sums[1], layer_norm())
        parts[which].mul_(2)
    for ask in (sums[0].value, norm.value):
        with pytest.raises(RuntimeError, match="changed in place"):
            ask()


@torch.no_grad()
def test_a_sum_that_is_changed_before_its_norm_is_asked_for_is_an_error_too() -> None:
    total = waiting()
    norm = norm_of(total, layer_norm())
    total.value().mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        norm.value()


def test_it_works_in_inference_mode() -> None:
    with torch.inference_mode():
        found: Any = norm_of(waiting(), layer_norm()) * SCALE
        torch.testing.assert_close(found.value(), layer_norm()(SUM) * SCALE)


@torch.no_grad()
def test_norms_that_have_to_be_called_are_not_left_out() -> None:
    hooked, in_half = layer_norm(), layer_norm(affine=True).half()
    hooked.register_forward_pre_hook(lambda *_: None)
    for module in (hooked, in_half, torch.nn.Identity(), torch.nn.LayerNorm((5, 16))):
        assert waiting().norm(module) is None
