"""Every pass keeps what its effect promises, on a UNet, a transformer and a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch

import sdaccel
from sdaccel.passes import NAMES, Effect, pass_class

# sessions compute what was exported: passes/test_onnxruntime.py holds them to the same bound
EXACT = [
    name
    for name in NAMES
    if pass_class(name).effect is Effect.EXACT and not pass_class(name).costly
]
# the compiler's own arithmetic is held to the same bound in passes/test_compiled_region.py
OPTIONS: dict[str, Any] = {"compile": {"backend": "eager"}}


def unet_forward(pipe: Any, dtype: torch.dtype) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, 8, 8, generator=random).to(dtype)
    text = torch.randn(2, 16, 32, generator=random).to(dtype)
    return pipe.unet(sample, torch.tensor(500), text).sample


def transformer_forward(pipe: Any, dtype: torch.dtype) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).to(dtype)

    return pipe.transformer(
        hidden_states=draw(1, 16, 16),
        encoder_hidden_states=draw(1, 8, 32),
        pooled_projections=draw(1, 32),
        timestep=torch.tensor([0.5], dtype=dtype),
        img_ids=torch.zeros(16, 3),
        txt_ids=torch.zeros(8, 3),
    ).sample


def decode(pipe: Any, dtype: torch.dtype) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return pipe.vae.decode(torch.randn(1, 4, 8, 8, generator=random).to(dtype)).sample


FORWARDS = [
    (tiny.stable_diffusion, unet_forward, "unet"),
    (tiny.flux, transformer_forward, "transformer"),
    (tiny.stable_diffusion, decode, "vae"),
]


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative L2."""
    return float((found.double() - truth.double()).norm() / truth.double().norm())


@pytest.mark.parametrize(("make", "forward", "part"), FORWARDS)
@pytest.mark.parametrize("name", EXACT)
@torch.no_grad()
def test_an_exact_pass_does_the_same_math(
    name: str, make: Callable[[], Any], forward: Callable[..., Any], part: str
) -> None:
    pipe = make()
    truth = forward(pipe, torch.float32)
    sdaccel.accelerate(pipe, "none", **{name: OPTIONS.get(name, True)})
    assert distance(forward(pipe, torch.float32), truth) <= 1e-5
    sdaccel.restore(pipe)
    assert torch.equal(forward(pipe, torch.float32), truth)

    getattr(pipe, part).to(torch.bfloat16)
    stock = distance(forward(pipe, torch.bfloat16), truth)
    sdaccel.accelerate(pipe, "none", **{name: OPTIONS.get(name, True)})
    assert distance(forward(pipe, torch.bfloat16), truth) <= 1.25 * stock


@torch.no_grad()
def test_lower_precision_is_no_worse_than_stock_in_that_precision() -> None:
    pipe = tiny.stable_diffusion()
    truth = unet_forward(pipe, torch.float32)
    sdaccel.accelerate(pipe, "none", precision={"dtype": "bfloat16"})
    found = distance(unet_forward(pipe, torch.bfloat16), truth)
    sdaccel.restore(pipe)
    pipe.unet.to(torch.bfloat16)
    assert found <= 1.25 * distance(unet_forward(pipe, torch.bfloat16), truth)
    assert found > 1e-4
