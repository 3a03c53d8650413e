"""What the calls compute that `arithmetic` puts into blocks: one pass, or what was written there.

Each is given the block first, in which its counter lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .deferred import Deferred
from .gated import FUSED as GATED
from .gated import Gated, gated_sum, parted, takes_residual
from .norms import can_be_left_out, in_its_dtype, norm_of
from .pending import aligned, fits
from .summed import Summed
from .swap import RAN, by_torch, is_hooked, plainly

if TYPE_CHECKING:
    import torch

TAKES = "_sdaccel_takes"
"""Under this name a rewritten class has the places of the arguments that may be waiting sums."""


def settled(block: Any, value: Any) -> Any:
    """A tensor, where it may have been waiting: a sum, or a scaled norm."""
    return value.value() if isinstance(value, (Summed, Deferred)) else value


def handed(block: Any, module: Any, place: int, value: Any) -> Any:
    """An argument of a module around a norm: a sum may wait on where that module knows of it."""
    if isinstance(value, Summed) and not takes_sums(module, place):
        return value.value()
    return value


def takes_sums(module: Any, place: int) -> bool:
    """Whether a module's own forward, fused, is what gets an argument, and it may be a sum."""
    if place not in getattr(type(module), TAKES, ()) or RAN not in module.__dict__:
        return False
    return not (is_hooked(module) or module._forward_hooks or module._forward_pre_hooks)


def normed(block: Any, norm: Any, hidden_states: Any, scaled: bool = False) -> Any:
    """`norm(hidden_states)`, of a sum that may be waiting; `scaled`: a product follows at once."""
    if not isinstance(hidden_states, Summed):
        waits = (
            scaled and can_be_left_out(norm, hidden_states) and in_its_dtype(norm, hidden_states)
        )
        if not waits:
            return norm(hidden_states)
        return Deferred(hidden_states, norm_of(norm), block.__dict__[RAN])
    waiting = hidden_states.norm(norm)
    if waiting is None:
        return norm(hidden_states.value())
    return waiting if scaled or norm.weight is None else waiting.value()


def gated(block: Any, one: Any, other: Any) -> Any:
    """`one * other`, to which a residual will be added."""
    one, other = settled(block, one), settled(block, other)
    parts = _parts(one, other)
    return one * other if parts is None else Gated(*parts, block.__dict__[RAN])


def plain_sum(block: Any, one: Any, other: Any, waits: bool = False) -> Any:
    """`one + other`; where it `waits`, a norm follows.

    On a CPU, where a sum and torch's norm are as fast as both in one, only what is gated waits.
    """
    one, other = settled(block, one), settled(block, other)
    if not waits:
        return one + other
    for residual, added in ((one, other), (other, one)):
        parts = added.parts_for(residual) if isinstance(added, Gated) else None
        if parts is not None:
            return Summed(residual, *parts, block.__dict__[RAN])
    alike = plainly(one) and plainly(other) and one.dim() > 1 and takes_residual(one, other)
    if not alike or by_torch(one):
        return one + other
    return Summed(one, other, None, block.__dict__[RAN])


def sum_with_gated(block: Any, residual: Any, one: Any, other: Any, waits: bool = False) -> Any:
    """`residual + one * other`; where it `waits`, a norm follows."""
    residual, one, other = (settled(block, each) for each in (residual, one, other))
    parts = _parts(one, other)
    if parts is None or not takes_residual(residual, parts[0]):
        return residual + one * other
    return _sum(block, residual, *parts, waits)


def sum_in_fp32(
    block: Any,
    residual: Any,
    one: Any,
    other: Any,
    raised_one: bool,
    raised_other: bool,
    waits: bool = False,
) -> Any:
    """`(residual.float() + one * other).type_as(residual)`, factors `raised` to fp32 or not.

    Either of the factors may be the gate.
    """
    import torch

    residual, one, other = (settled(block, each) for each in (residual, one, other))
    if one.numel() < other.numel():
        one, other, raised_one, raised_other = other, one, raised_other, raised_one
    if (
        not plainly(residual)
        or not plainly(one)
        or one.shape != residual.shape
        or not fits(other, residual)
        or other.dtype != torch.float32
    ):
        product = (one.float() if raised_one else one) * (other.float() if raised_other else other)
        return (residual.float() + product).type_as(residual)
    return _sum(block, residual, one, other, waits and one.dtype == residual.dtype)


def _sum(
    block: Any, residual: torch.Tensor, added: torch.Tensor, gate: torch.Tensor, waits: bool
) -> Any:
    if waits:
        return Summed(residual, added, gate, block.__dict__[RAN])
    block.__dict__[RAN][GATED] += 1
    return gated_sum(residual, added, gate)


def norm_in_fp32(
    block: Any, norm: Any, hidden_states: Any, factor: Any = None, shift: Any = None
) -> Any:
    """`(norm(hidden_states.float()) * factor + shift).type_as(hidden_states)`, or only the norm."""
    modulation = factor, shift
    if isinstance(hidden_states, Summed):
        waiting = hidden_states.norm(norm)
        if waiting is not None and _fit(modulation, hidden_states.like):
            return hidden_states.normed(norm_of(norm), *_aligned(modulation, hidden_states.like))
        hidden_states = hidden_states.value()
    if can_be_left_out(norm, hidden_states) and _fit(modulation, hidden_states):
        from ..kernels.norm_modulate import norm_modulate

        block.__dict__[RAN]["norms by way of fp32 in one pass"] += 1
        by = _aligned(modulation, hidden_states)
        return norm_modulate(hidden_states, *by, scale_offset=0.0, **norm_of(norm))
    result = norm(hidden_states.float())
    if factor is not None:
        result = result * factor + shift
    return result.type_as(hidden_states)


def _fit(modulation: tuple[Any, ...], like: torch.Tensor) -> bool:
    return all(each is None or fits(each, like) for each in modulation)


def _aligned(modulation: tuple[Any, Any], like: torch.Tensor) -> tuple[Any, Any]:
    factor, shift = (None if each is None else aligned(each, like) for each in modulation)
    return factor, shift


def _parts(one: Any, other: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    return parted(one, other) if plainly(one) and plainly(other) else None
