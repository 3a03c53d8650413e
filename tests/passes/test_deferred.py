"""A deferred norm: fused with a product and a sum, a tensor like any other for everything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sdaccel.passes.deferred import Deferred

NORM: dict[str, Any] = {"weight": None, "bias": None, "kind": "layer", "eps": 1e-6}
LABEL = "norms fused with their modulation"


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, SCALE, SHIFT = noise(2, 5, 16), noise(2, 1, 16, seed=1), noise(2, 1, 16, seed=2)
PLAIN = torch.nn.functional.layer_norm(X, (16,), eps=1e-6)


def deferred(ran: Counter[str] | None = None) -> Any:
    return Deferred(X, NORM, Counter() if ran is None else ran)


@pytest.mark.parametrize(
    ("write", "fused"),
    [
        (lambda norm: norm * (1 + SCALE) + SHIFT, 1),
        (lambda norm: SHIFT + (1 + SCALE) * norm, 1),
        (lambda norm: torch.add(torch.mul(norm, 1 + SCALE), SHIFT), 1),
        (lambda norm: norm * (1 + SCALE), 1),
        (lambda norm: norm + SHIFT, 1),
        (lambda norm: norm * (1 + SCALE) * SCALE, 1),
        (lambda norm: norm * (1 + SCALE) - SHIFT, 1),
        (lambda norm: norm * 2.0, 0),
        (lambda norm: norm - SHIFT, 0),
        (lambda norm: torch.nn.functional.linear(norm, SCALE[0]), 0),
        (lambda norm: torch.cat([norm, X], dim=1), 0),
        (lambda norm: norm.transpose(0, 1)[1:], 0),
        (lambda norm: norm[:, 2:] / 3, 0),
    ],
)
def test_it_computes_what_the_norm_would(write: Callable[[Any], Any], fused: int) -> None:
    ran: Counter[str] = Counter()
    found, expected = write(deferred(ran)), write(PLAIN)
    found = found.value() if isinstance(found, Deferred) else found
    torch.testing.assert_close(found, expected)
    assert ran[LABEL] == fused


def test_its_form_is_known_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = deferred()
    monkeypatch.setattr(Deferred, "_compute", None)
    assert (norm.shape, norm.dtype, norm.device) == (X.shape, X.dtype, X.device)


def test_asked_twice_it_computes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compute = Deferred._compute

    def counted(self: Deferred, summand: Any = None) -> torch.Tensor:
        calls.append(summand)
        return compute(self, summand)

    monkeypatch.setattr(Deferred, "_compute", counted)
    norm = deferred()
    assert norm.mean() is not norm.sum()
    assert len(calls) == 1


@pytest.mark.parametrize(
    "other", [SCALE.double(), noise(4, 2, 5, 16), SCALE.to(torch.bfloat16), 3.0]
)
def test_what_would_change_its_shape_or_dtype_is_not_fused(other: Any) -> None:
    ran: Counter[str] = Counter()
    found = deferred(ran) * other
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, PLAIN * other, rtol=1e-5, atol=1e-6)
    assert not ran


def test_two_uses_of_one_norm_are_both_fused() -> None:
    ran: Counter[str] = Counter()
    norm = deferred(ran)
    for scale, shift in ((1 + SCALE, SHIFT), (SHIFT, SCALE)):
        torch.testing.assert_close(norm * scale + shift, PLAIN * scale + shift)
    assert ran[LABEL] == 2


def test_modulation_for_each_token_is_fused_too() -> None:
    scale = noise(2, 5, 16, seed=3)
    torch.testing.assert_close(deferred() * scale + SHIFT, PLAIN * scale + SHIFT)


def test_an_input_that_is_changed_in_place_meanwhile_is_an_error_not_another_result() -> None:
    x = X.clone()
    norm = Deferred(x, NORM, Counter())
    x.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        norm.value()


def test_it_works_in_inference_mode() -> None:
    with torch.inference_mode():
        norm = Deferred(X.clone(), NORM, Counter())
        torch.testing.assert_close(norm * (1 + SCALE) + SHIFT, PLAIN * (1 + SCALE) + SHIFT)
