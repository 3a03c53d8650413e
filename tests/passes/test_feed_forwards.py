"""Activations of feed-forwards: the same values in one pass, stock's own code where it must be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers.models.activations import GEGLU, GELU, ApproximateGELU, FP32SiLU, SwiGLU
from diffusers.models.transformers.transformer_flux2 import Flux2SwiGLU
from kernel_checks import noise, relative_error

from sdaccel.passes.fusions import swaps
from sdaccel.passes.swap import RAN

X = noise(2, 5, 16)
MAKERS: dict[str, Any] = {
    "GEGLU": lambda: GEGLU(16, 24),
    "SwiGLU": lambda: SwiGLU(16, 24),
    "Flux2SwiGLU": Flux2SwiGLU,
    "ApproximateGELU": lambda: ApproximateGELU(16, 24),
    "FP32SiLU": FP32SiLU,
}


def fused(module: Any) -> Any:
    for swap in swaps(module):
        swap.owner.__class__ = swap.subclass
        swap.owner.__dict__[RAN] = Counter()
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_it_is_as_near_to_the_truth_as_stock(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = MAKERS[name]()
    truth = module(X)
    module.to(dtype)
    stock = relative_error(module(X.to(dtype)), truth)
    found = fused(module)(X.to(dtype))
    assert found.dtype == dtype
    one_pass_already = name == "FP32SiLU" and dtype == torch.float32
    assert module.__dict__[RAN].total() == (0 if one_pass_already else 1)
    # Triton's interpreter cuts bf16 off where a GPU rounds, which costs twice as much
    assert relative_error(found, truth) <= 2.2 * stock + 1e-6


@pytest.mark.parametrize("name", MAKERS)
def test_with_gradients_on_stock_s_own_code_runs(name: str) -> None:
    module = MAKERS[name]()
    stock = module(X)
    assert torch.equal(fused(module)(X), stock)
    assert not module.__dict__[RAN]


@pytest.mark.parametrize(
    "module", [GELU(16, 24), GELU(16, 24, approximate="tanh"), torch.nn.SiLU()]
)
def test_what_has_one_kernel_already_is_left(module: Any) -> None:
    assert not list(swaps(module))


@torch.no_grad()
def test_on_a_cpu_an_approximate_gelu_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdaccel.kernels.language.interpreted", lambda: False)
    module = ApproximateGELU(16, 24)
    stock = module(X)
    assert torch.equal(fused(module)(X), stock)
    assert not module.__dict__[RAN]
