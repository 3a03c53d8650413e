"""A gated output that waits for its residual: added in one pass, a tensor like any other else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from kernel_checks import noise

from sdaccel.passes.gated import FUSED, Gated, parted

X, RESIDUAL, GATE = noise(2, 5, 16), noise(2, 5, 16, seed=1), noise(2, 1, 16, seed=2)


def waiting(ran: Counter[str] | None = None) -> Any:
    return Gated(X, GATE, Counter() if ran is None else ran)


@pytest.mark.parametrize("swapped", [False, True])
def test_its_sum_with_a_residual_is_one_pass(swapped: bool) -> None:
    ran: Counter[str] = Counter()
    found = waiting(ran) + RESIDUAL if swapped else RESIDUAL + waiting(ran)
    torch.testing.assert_close(found, RESIDUAL + GATE * X)
    assert ran[FUSED] == 1


def test_for_everything_else_it_is_the_product() -> None:
    ran: Counter[str] = Counter()
    for found in (
        waiting(ran).clone(),
        torch.cat([waiting(ran)]),
        waiting(ran)[:],
        waiting() * 1.0,
    ):
        assert torch.equal(found, GATE * X)
    assert torch.equal(waiting(ran) + 1.0, GATE * X + 1.0)
    assert not ran


@pytest.mark.parametrize("which", ["output", "gate"])
def test_what_is_changed_in_place_meanwhile_is_an_error_not_another_result(which: str) -> None:
    x, gate = X.clone(), GATE.clone()
    product = Gated(x, gate, Counter())
    (x if which == "output" else gate).mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        RESIDUAL + product


def test_the_smaller_factor_is_the_gate() -> None:
    for pair in ((X, GATE), (GATE, X)):
        parts = parted(*pair)
        assert parts
        assert parts[0] is X
        assert parts[1] is GATE


@pytest.mark.parametrize("shape", [(16,), (1, 16), (5, 16), (2, 1, 16), (1, 5, 16), (2, 5, 16)])
def test_gates_have_channels_for_all_each_sample_or_each_token(shape: tuple[int, ...]) -> None:
    gate = noise(*shape, seed=3)
    assert parted(X, gate)
    torch.testing.assert_close(RESIDUAL + Gated(X, gate, Counter()), RESIDUAL + gate * X)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (X, 2.0),
        (X, GATE.double()),
        (X, noise(2, 5, 1)),
        (noise(2, 4, 3, 5), noise(2, 4, 1, 1)),
        (noise(2, 4, 3, 5), noise(2, 4, 1, 5)),
    ],
    ids=["number", "other dtype", "no channels", "channels first", "between"],
)
def test_what_the_op_would_have_to_copy_is_no_gate(one: Any, other: Any) -> None:
    assert parted(one, other) is None
