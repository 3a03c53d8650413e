"""Attention as the denoisers are trained with it: SDPA's numbers by plain matrix products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sdaccel.shapes.training.denoiser import attention_for

CPU = torch.device("cpu")


def tensors(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 4, 24, 16, generator=generator).to(dtype).requires_grad_() for _ in range(3)
    ]


def test_it_gives_what_sdpa_gives_and_the_same_gradients() -> None:
    query, key, value = tensors()
    expected = functional.scaled_dot_product_attention(query, key, value)
    wanted = torch.autograd.grad(expected.square().sum(), (query, key, value))
    with attention_for(CPU):
        found = functional.scaled_dot_product_attention(
            query=query, key=key, value=value, attn_mask=None, dropout_p=0.0, is_causal=False
        )
    gradients = torch.autograd.grad(found.square().sum(), (query, key, value))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-4)


def test_it_keeps_the_type_of_its_inputs_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16), attention_for(CPU):
        found = functional.scaled_dot_product_attention(*tensors(torch.bfloat16))
    assert found.dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{"is_causal": True}, {"scale": 0.5}, {"attn_mask": True}])
def test_what_the_formula_lacks_stays_with_torch(options: dict[str, object]) -> None:
    if "attn_mask" in options:
        options = {"attn_mask": torch.ones(24, 24).tril().bool()}
    expected = functional.scaled_dot_product_attention(*tensors(), **options)
    with attention_for(CPU):
        found = functional.scaled_dot_product_attention(*tensors(), **options)
    assert torch.equal(found, expected)


def test_inside_it_softmax_is_what_runs() -> None:
    with torch.profiler.profile() as profile, attention_for(CPU):
        functional.scaled_dot_product_attention(*tensors())
    names = {event.name for event in profile.events()}
    assert "aten::softmax" in names
    assert "aten::scaled_dot_product_attention" not in names
