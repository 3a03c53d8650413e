"""Linear layers and what follows them, as diffusers writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from .errors import Skip
from .kernel_cases import Case, Draw, Family, Inputs, Rival, Variant
from .kernel_rows import INDUCTOR, STOCK, TORCH, Target

_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


def linear(
    x: torch.Tensor, weight: Any, bias: Any, activation: str | None, gate: Any, residual: Any
) -> torch.Tensor:
    """nn.Linear, then the activation, the gate and the residual, each a line of its own."""
    y = F.linear(x, weight, bias)
    if activation is not None:
        y = _ACTIVATIONS[activation](y)
    if gate is not None:
        y = gate.unsqueeze(1) * y
    return y if residual is None else residual + y


def _inputs(
    draw: Draw,
    batch: int,
    tokens: int,
    channels: int,
    wide: int,
    activation: str | None = None,
    gated: bool = False,
    residual: bool = False,
) -> Inputs:
    return {
        "x": draw(batch, tokens, channels),
        "weight": draw.weight(wide, channels),
        "bias": draw(wide),
        "activation": activation,
        "gate": draw(batch, wide) if gated else None,
        "residual": draw(batch, tokens, wide) if residual else None,
    }


def _case(
    model: str,
    what: str,
    batch: int,
    tokens: int,
    channels: int,
    wide: int,
    stock: Variant,
    **options: Any,
) -> Case:
    """From `channels` to `wide`, in whichever order they are wide."""
    sizes = {"batch": batch, "tokens": tokens, "channels": channels, "wide": wide}
    return Case(model, what, sizes, stock, options)


def _cublas_epilogue(inputs: Inputs) -> Variant:
    """cuBLAS with tanh-GELU in its epilogue, by the function that torch's encoder layers call."""
    only_gelu = inputs["activation"] == "gelu_tanh" and inputs["residual"] is None
    if inputs["x"].device.type != "cuda" or not only_gelu:
        raise Skip("cuBLAS has an epilogue of bias and tanh-GELU alone.")

    def run(x: torch.Tensor, weight: Any, bias: Any, **_: Any) -> torch.Tensor:
        rows = x.flatten(0, -2)
        y = torch._addmm_activation(bias, rows, weight.t(), use_gelu=True)
        result: torch.Tensor = y.unflatten(0, x.shape[:-1])
        return result

    return run


def _targets(case: Case) -> tuple[Target, ...]:
    """An epilogue that isn't faster than cuBLAS and a pass of its own has no use."""
    return (Target(1.0, (STOCK, INDUCTOR, TORCH)),)


def _linear(module: ModuleType, x: Any, weight: Any, bias: Any, **named: Any) -> Any:
    return module.linear(x, weight, bias, **named)


def _linear_cost(
    module: ModuleType, x: Any, weight: Any, bias: Any, gate: Any, residual: Any, **_: Any
) -> Any:
    return module.linear_cost(x, weight, bias, gate=gate, residual=residual)


_TANH = {"activation": "gelu_tanh"}
_ONTO = {"residual": True}
_GATED = {"residual": True, "gated": True}

LINEAR = Family(
    "linear",
    "linear",
    "compute",
    (
        _case("SD1.5", "attention's output, 64x64", 2, 4096, 320, 320, linear, **_ONTO),
        _case("SD1.5", "feed-forward's output, 64x64", 2, 4096, 1280, 320, linear, **_ONTO),
        _case("SDXL", "attention's output, 32x32", 2, 1024, 1280, 1280, linear, **_ONTO),
        _case("SDXL", "feed-forward's output, 32x32", 2, 1024, 5120, 1280, linear, **_ONTO),
        _case("SD3", "GELU-tanh", 2, 4096, 1536, 6144, linear, **_TANH),
        _case("PixArt", "GELU-tanh", 2, 4096, 1152, 4608, linear, **_TANH),
        _case("FLUX", "GELU-tanh", 1, 4096, 3072, 12288, linear, **_TANH),
        _case("FLUX", "attention's output, gated", 1, 4096, 3072, 3072, linear, **_GATED),
        _case("FLUX", "feed-forward's output, gated", 1, 4096, 12288, 3072, linear, **_GATED),
        _case("FLUX", "single block's output, gated", 1, 4608, 15360, 3072, linear, **_GATED),
        _case("Wan-1.3B", "GELU-tanh", 1, 32760, 1536, 8960, linear, **_TANH),
        _case("Wan-14B", "GELU-tanh", 1, 32760, 5120, 13824, linear, **_TANH),
        _case("Wan-14B", "cross-attention's output", 1, 32760, 5120, 5120, linear, **_ONTO),
    ),
    _inputs,
    _linear,
    _linear_cost,
    lambda: {"cuBLAS epilogue": Rival(TORCH, _cublas_epilogue)},
    _targets,
)


def gated_linear(
    x: torch.Tensor, weight: Any, bias: Any, activation: str, gate_first: bool
) -> torch.Tensor:
    """GEGLU.forward; Flux2SwiGLU's where the gate is first."""
    first, second = F.linear(x, weight, bias).chunk(2, dim=-1)
    function = _ACTIVATIONS[activation]
    return function(first) * second if gate_first else first * function(second)


def _gated_inputs(
    draw: Draw,
    batch: int,
    tokens: int,
    channels: int,
    wide: int,
    activation: str = "gelu",
    gate_first: bool = False,
    biased: bool = True,
) -> Inputs:
    return {
        "x": draw(batch, tokens, channels),
        "weight": draw.weight(2 * wide, channels),
        "bias": draw(2 * wide) if biased else None,
        "activation": activation,
        "gate_first": gate_first,
    }


def _gated_linear(module: ModuleType, x: Any, weight: Any, bias: Any, **named: Any) -> Any:
    return module.gated_linear(x, weight, bias, **named)


def _gated_linear_cost(module: ModuleType, x: Any, weight: Any, bias: Any, **_: Any) -> Any:
    return module.gated_linear_cost(x, weight, bias)


_SILU_FIRST = {"activation": "silu", "gate_first": True, "biased": False}

GATED_LINEAR = Family(
    "gated_linear",
    "linear",
    "compute",
    (
        _case("SD1.5", "GEGLU, 64x64", 2, 4096, 320, 1280, gated_linear),
        _case("SD1.5", "GEGLU, 32x32", 2, 1024, 640, 2560, gated_linear),
        _case("SDXL", "GEGLU, 64x64", 2, 4096, 640, 2560, gated_linear),
        _case("SDXL", "GEGLU, 32x32", 2, 1024, 1280, 5120, gated_linear),
        _case("Lumina2", "SwiGLU", 2, 4096, 2304, 9216, gated_linear, **_SILU_FIRST),
        _case("FLUX.2", "SwiGLU", 1, 4608, 6144, 18432, gated_linear, **_SILU_FIRST),
    ),
    _gated_inputs,
    _gated_linear,
    _gated_linear_cost,
    targets=_targets,
)

FAMILIES = (LINEAR, GATED_LINEAR)
