"""The activations of feed-forwards, one formula in Triton and the same in plain torch, in fp32.

    gelu            x * Phi(x), Phi by erf                  F.gelu, diffusers' GELU and GEGLU
    gelu_tanh       x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))      F.gelu(approximate="tanh")
    gelu_quick      x * sigmoid(1.702 x)                    diffusers' ApproximateGELU
    silu            x * sigmoid(x)                          F.silu, LinearActivation, SwiGLU
    relu_squared    max(x, 0)^2                             the feed-forward of Cosmos 3

(1 + tanh(z)) / 2 is sigmoid(2z), so that one exponential serves four of them.

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016); So et al., "Primer" (2021).
"""

from __future__ import annotations

from typing import Literal

import torch

from .language import tl, triton
from .pieces import in_pieces, pieces, room_for

Activation = Literal["gelu", "gelu_tanh", "gelu_quick", "silu", "relu_squared"]

ACTIVATIONS = ("gelu", "gelu_tanh", "gelu_quick", "silu", "relu_squared")

_LINEAR, _CUBIC = 1.5957691216057308, 0.07135481282


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """act(x) for x in fp32; finite for every finite x that the result can hold."""
    if ACTIVATION == "gelu":
        y = x * (0.5 + 0.5 * tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        y = x * _sigmoid(x * (1.5957691216057308 + 0.07135481282 * x * x))
    elif ACTIVATION == "gelu_quick":
        y = x * _sigmoid(1.702 * x)
    elif ACTIVATION == "silu":
        y = x * _sigmoid(x)
    else:
        y = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
        y = y * y
    return y


@triton.jit
def _sigmoid(x):
    """Its exponential is of what is never above 0, which can't overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0, small, 1.0) / (1.0 + small)


def activated(x: torch.Tensor, activation: str) -> torch.Tensor:
    """act(x) in plain torch, a tensor of its own: in fp32, rounded once to x's dtype."""
    if activation == "gelu":
        return torch.nn.functional.gelu(x)
    if activation == "silu":
        return torch.nn.functional.silu(x)
    if activation == "gelu_tanh" and x.device.type != "cpu":
        return torch.nn.functional.gelu(x, approximate="tanh")
    if not in_pieces(x):
        return _formula(x.float(), activation).to(x.dtype)
    rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    y = torch.empty_like(rows, memory_format=torch.contiguous_format)
    parts = pieces(rows)
    rooms = room_for(parts), room_for(parts)
    for part, result in zip(parts, pieces(y), strict=True):
        raised, room = (each[: part.shape[0]] for each in rooms)
        result.copy_(_formula(raised.copy_(part), activation, room))
    return y.view(x.shape)


def _formula(x: torch.Tensor, activation: str, room: torch.Tensor | None = None) -> torch.Tensor:
    """act(x) in fp32, in `room` where there is some."""
    if activation == "gelu_tanh":
        linear = torch.full((), _LINEAR, device=x.device)
        return torch.addcmul(linear, x, x, value=_CUBIC, out=room).mul_(x).sigmoid_().mul_(x)
    if activation == "gelu_quick":
        return torch.mul(x, 1.702, out=room).sigmoid_().mul_(x)
    return x.relu().square_()
