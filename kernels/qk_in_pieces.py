"""Norm and rotation of query or key on a CPU, in plain torch: in fp32, rounded once, in place.

A piece of the tokens at a time, by `pieces`: plain torch on the whole tensor writes and reads it a
dozen times. Interleaved pairs are rotated as complex numbers, in one multiplication.
"""

from __future__ import annotations

import math

import torch

from .pieces import pieces, room_for
from .rotary import of_both

_PIECE = 1 << 17


def norm_rope_in_pieces(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    norm: str | None,
    across_heads: bool,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    layout: str,
    rotary_dim: int,
    eps: float,
) -> None:
    """Normalise and rotate x (B, S, H, D) in place, by tables as `pairs_of` has them."""
    if not x.numel():
        return
    shape = x.shape[2:] if across_heads else x.shape[3:]
    affine = [None if each is None else each.float().view(shape) for each in (weight, bias)]
    over = (-2, -1) if across_heads else (-1,)
    for index in range(x.shape[0]):
        start, parts = 0, pieces(x[index], _PIECE)
        room = room_for(parts)
        for part in parts:
            stop = start + part.shape[0]
            y = room[: part.shape[0]].copy_(part)
            if norm is not None:
                _normalise(y, affine[0], affine[1], norm, over, eps)
            if cos is not None and sin is not None:
                own = cos[index, start:stop].float(), sin[index, start:stop].float()
                _rotate(y[..., :rotary_dim], own[0], own[1], layout)
            part.copy_(y)
            start = stop


def _normalise(
    y: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    norm: str,
    over: tuple[int, ...],
    eps: float,
) -> None:
    """Normalise a few tokens in fp32 over their last dimensions, in place."""
    if norm == "layer":
        y.sub_(y.mean(over, keepdim=True))
    length = torch.linalg.vector_norm(y, dim=over, keepdim=True)
    y.mul_(length.square_().div_(math.prod(y.shape[each] for each in over)).add_(eps).rsqrt_())
    if weight is not None:
        y.mul_(weight)
    if bias is not None:
        y.add_(bias)


def _rotate(y: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: str) -> None:
    """Rotate a few tokens (S, H, D) in fp32, in place."""
    if layout != "interleaved":
        first, second = y.chunk(2, -1)
        (cos, cos_again), (sin, sin_again) = (of_both(each, layout) for each in (cos, sin))
        turned = (first * cos).sub_(second * sin)
        second.mul_(cos_again).add_(first * sin_again)
        first.copy_(turned)
    elif y.stride(1) % 2:
        pairs = torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous())
        y.copy_(torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2))
    else:
        torch.view_as_complex(y.unflatten(-1, (-1, 2))).mul_(torch.complex(cos, sin))
