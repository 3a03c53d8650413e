"""RMSNorm and LayerNorm under their own names, as torch.nn.functional has them: `norm_modulate`.

    layer_norm(x) = (x - mean) * rstd * weight + bias
    rms_norm(x)   = x * rrms * weight

Shapes: x (B, ..., C), weight and bias (C,); the norm is over C. One pass over memory, statistics
and arithmetic in fp32, rounded once; the cost is `norm_modulate_cost`. Two things differ from
torch: the shape to normalise is not given, since it is the last axis, and rms_norm of 16 bit is not
rounded before weight.

Sources: Ba et al., "Layer Normalization" (2016); Zhang and Sennrich, "Root Mean Square Layer
Normalization" (2019).
"""

from __future__ import annotations

import torch

from .arguments import check_float
from .norm_modulate import norm_modulate


def layer_norm(
    hidden_states: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """LayerNorm of hidden_states (B, ..., C) in its dtype.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    return norm_modulate(hidden_states, weight=weight, bias=bias, kind="layer", eps=eps)


def rms_norm(
    hidden_states: torch.Tensor, weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """RMSNorm of hidden_states (B, ..., C) in its dtype; eps is its dtype's epsilon if not given.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    check_float(hidden_states=hidden_states)
    if eps is None:
        eps = torch.finfo(hidden_states.dtype).eps
    return norm_modulate(hidden_states, weight=weight, kind="rms", eps=eps)
