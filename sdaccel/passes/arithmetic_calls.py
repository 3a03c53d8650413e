"""What the calls compute that `arithmetic` puts into blocks: one pass, or what was written there.

Each is given the block first, in which its counter lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .gated import FUSED, Gated, gated_sum, parted, takes_residual
from .norms import is_row_norm, norm_of
from .pending import aligned, fits
from .swap import RAN, plainly

if TYPE_CHECKING:
    import torch


def gated(block: Any, one: Any, other: Any) -> Any:
    """`one * other`, to which a residual will be added."""
    parts = _parts(one, other)
    return one * other if parts is None else Gated(*parts, block.__dict__[RAN])


def sum_with_gated(block: Any, residual: Any, one: Any, other: Any) -> Any:
    """`residual + one * other`."""
    parts = _parts(one, other)
    if parts is None or not takes_residual(residual, parts[0]):
        return residual + one * other
    block.__dict__[RAN][FUSED] += 1
    return gated_sum(residual, *parts)


def sum_in_fp32(
    block: Any, residual: Any, one: Any, other: Any, raised_one: bool, raised_other: bool
) -> Any:
    """`(residual.float() + one * other).type_as(residual)`, factors `raised` to fp32 or not."""
    import torch

    if (
        not plainly(residual)
        or not plainly(one)
        or one.shape != residual.shape
        or not fits(other, residual)
        or other.dtype != torch.float32
    ):
        product = (one.float() if raised_one else one) * (other.float() if raised_other else other)
        return (residual.float() + product).type_as(residual)
    block.__dict__[RAN][FUSED] += 1
    return gated_sum(residual, one, other)


def norm_in_fp32(
    block: Any, norm: Any, hidden_states: Any, factor: Any = None, shift: Any = None
) -> Any:
    """`(norm(hidden_states.float()) * factor + shift).type_as(hidden_states)`, or only the norm."""
    if _in_one_pass(norm, hidden_states) and all(
        each is None or fits(each, hidden_states) for each in (factor, shift)
    ):
        from ..kernels.norm_modulate import norm_modulate

        block.__dict__[RAN]["norms by way of fp32 in one pass"] += 1
        modulation = [
            None if each is None else aligned(each, hidden_states) for each in (factor, shift)
        ]
        return norm_modulate(hidden_states, *modulation, scale_offset=0.0, **norm_of(norm))
    normed = norm(hidden_states.float())
    if factor is not None:
        normed = normed * factor + shift
    return normed.type_as(hidden_states)


def _in_one_pass(norm: Any, hidden_states: Any) -> bool:
    """Whether a norm is known, can be left out without missing a hook, and its weights are here."""
    known = type(norm).__name__ in ("LayerNorm", "FP32LayerNorm")
    hooked = known and (
        "forward" in norm.__dict__ or norm._forward_hooks or norm._forward_pre_hooks
    )
    return (
        known
        and not hooked
        and is_row_norm(norm, hidden_states)
        and (norm.weight is None or norm.weight.device == hidden_states.device)
    )


def _parts(one: Any, other: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    return parted(one, other) if plainly(one) and plainly(other) else None
