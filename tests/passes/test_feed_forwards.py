"""Activations of feed-forwards: the same values in one pass, stock's own code where it must be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers.models.activations import GEGLU, GELU, ApproximateGELU, FP32SiLU, SwiGLU
from diffusers.models.attention import LuminaFeedForward
from diffusers.models.transformers.auraflow_transformer_2d import AuraFlowFeedForward
from diffusers.models.transformers.transformer_flux2 import Flux2SwiGLU
from diffusers.models.transformers.transformer_hidream_image import HiDreamImageFeedForwardSwiGLU
from diffusers.models.transformers.transformer_z_image import FeedForward
from kernel_checks import kernel_runs, noise, relative_error

from sdaccel.passes.fusions import swaps
from sdaccel.passes.swap import RAN

X = noise(2, 5, 16)


def part(module: str, name: str, *sizes: int) -> Any:
    """A module of a transformer that older versions of diffusers haven't."""
    found = pytest.importorskip(f"diffusers.models.transformers.transformer_{module}")
    if not hasattr(found, name):
        pytest.skip(f"this diffusers has no {name}")
    return getattr(found, name)(*sizes)


MAKERS: dict[str, Any] = {
    "GEGLU": lambda: GEGLU(16, 24),
    "SwiGLU": lambda: SwiGLU(16, 24),
    "Flux2SwiGLU": Flux2SwiGLU,
    "ApproximateGELU": lambda: ApproximateGELU(16, 24),
    "FP32SiLU": FP32SiLU,
    "Z-Image": lambda: FeedForward(16, 24),
    "Lumina": lambda: LuminaFeedForward(16, 24, multiple_of=8),
    "AuraFlow": lambda: AuraFlowFeedForward(16),
    "HiDream": lambda: HiDreamImageFeedForwardSwiGLU(16, 24),
    "ErnieImage": lambda: part("ernie_image", "ErnieImageFeedForward", 16, 24),
    "OmniGen": lambda: part("omnigen", "OmniGenFeedForward", 16, 24),
    "Stable Audio 3": lambda: part("stable_audio3", "StableAudio3FeedForward", 16),
    "Qwen-Image 2.1": lambda: part("qwenimage21", "QwenImage21SwiGLUFeedForward", 16, 24),
    "Cosmos 3": lambda: part("cosmos3", "Cosmos3VLTextMLP", 16, 24),
}
TWO_PROJECTIONS = [
    *("Z-Image", "Lumina", "AuraFlow", "HiDream", "ErnieImage", "OmniGen", "Stable Audio 3"),
    *("Qwen-Image 2.1", "Cosmos 3"),
]
"""Or two halves of one, multiplied in the block itself."""
WITH_A_MODULE = {"Lumina", "OmniGen", "Qwen-Image 2.1", "Cosmos 3"}
"""Their activation is a module, which hooks can be put on."""


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


@pytest.mark.parametrize("name", TWO_PROJECTIONS)
@torch.no_grad()
def test_two_projections_keep_their_weights_and_are_called(name: str) -> None:
    torch.manual_seed(0)
    module, calls = MAKERS[name](), []
    before = {key: each.data_ptr() for key, each in module.state_dict().items()}
    for each in module.children():
        each.register_forward_hook(lambda layer, *_: calls.append(layer))
    stock, called = module(X), list(calls)
    calls.clear()
    with kernel_runs("activated_product", 0 if name in WITH_A_MODULE else 1):
        torch.testing.assert_close(fused(module)(X), stock, rtol=1e-5, atol=1e-6)
    assert Counter(calls) == Counter(called), "an activation with a hook is called too"
    assert {key: each.data_ptr() for key, each in module.state_dict().items()} == before


@pytest.mark.usefixtures("plain_torch")
@pytest.mark.parametrize("name", TWO_PROJECTIONS)
@torch.no_grad()
def test_on_a_cpu_two_projections_give_stock_s_values_to_the_bit(name: str) -> None:
    module = MAKERS[name]().to(torch.bfloat16)
    stock = module(X.to(torch.bfloat16))
    assert torch.equal(fused(module)(X.to(torch.bfloat16)), stock)
    assert module.__dict__[RAN] == {"gated activations": 1}
