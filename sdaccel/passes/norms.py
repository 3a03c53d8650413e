"""Norms over channels: in one pass over memory, or waiting for their modulation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .deferred import Deferred
from .swap import RAN, Forward, Swap, is_hooked, name_of, plainly, swap


def norm_rule(module: Any) -> Iterator[Swap]:
    """A norm without weights is one that is modulated; one with weights is computed in one pass.

    torch's LayerNorm is that already, and so is its RMSNorm on a GPU, but not on a CPU. One without
    an eps is left, see `is_row_norm`.
    """
    if module.eps is None:
        return
    if module.weight is None:
        yield swap(module, _modulated, "norm+modulate", stock_passes(module) + 2)
    elif stock_passes(module) > 2 or "RMSNorm" in type(module).__name__:
        yield swap(module, _whole_norm, "norm", stock_passes(module) - 2)


def stock_passes(module: Any) -> int:
    """How often stock reads or writes a tensor to compute a norm; where it is spelled out, many."""
    return _STOCK_PASSES.get(name_of(type(module)), 2)


_NORMALIZATION = "diffusers.models.normalization."
_ROW_NORMS = {
    "torch.nn.modules.normalization.LayerNorm",
    "torch.nn.modules.normalization.RMSNorm",
    f"{_NORMALIZATION}FP32LayerNorm",
    f"{_NORMALIZATION}RMSNorm",
    f"{_NORMALIZATION}MochiRMSNorm",
}
_STOCK_PASSES = {
    f"{_NORMALIZATION}FP32LayerNorm": 6,
    f"{_NORMALIZATION}RMSNorm": 11,
    f"{_NORMALIZATION}MochiRMSNorm": 11,
}


def _modulated(stock: Forward) -> Forward:
    def forward(self: Any, hidden_states: Any) -> Any:
        if not is_row_norm(self, hidden_states):
            return stock(self, hidden_states)
        return Deferred(hidden_states, norm_of(self), self.__dict__[RAN])

    return forward


def _whole_norm(stock: Forward) -> Forward:
    def forward(self: Any, hidden_states: Any) -> Any:
        if not is_row_norm(self, hidden_states) or self.weight.dtype != hidden_states.dtype:
            return stock(self, hidden_states)
        from ..kernels.norm_modulate import norm_modulate

        self.__dict__[RAN]["norms in one pass"] += 1
        return norm_modulate(hidden_states, **norm_of(self))

    return forward


def is_row_norm(module: Any, hidden_states: Any, in_fp32: bool = False) -> bool:
    """Whether a norm is over the last dimension of something the op can take.

    A norm without an eps takes its dtype's, which is known where it is given fp32.
    """
    if not plainly(hidden_states) or hidden_states.dim() < 2:
        return False
    if module.eps is None and not in_fp32:
        return False
    over = getattr(module, "normalized_shape", None) or module.dim
    return tuple(over) == tuple(hidden_states.shape[-1:])


def is_known(module: Any) -> bool:
    """Whether a norm's class is one that the op computes."""
    return name_of(type(module)) in _ROW_NORMS


def can_be_left_out(module: Any, hidden_states: Any, in_fp32: bool = False) -> bool:
    """Whether the op can compute a norm without calling it: no hook is missed, weights are here."""
    return (
        is_known(module)
        and not (is_hooked(module) or module._forward_hooks or module._forward_pre_hooks)
        and is_row_norm(module, hidden_states, in_fp32)
        and (module.weight is None or module.weight.device == hidden_states.device)
    )


def in_its_dtype(module: Any, hidden_states: Any) -> bool:
    """Whether a norm leaves a tensor in its dtype."""
    wide = "FP32" in type(module).__name__
    return wide or module.weight is None or module.weight.dtype == hidden_states.dtype


def norm_of(module: Any) -> dict[str, Any]:
    """The op's arguments for a norm of torch or diffusers."""
    return {
        "weight": module.weight,
        "bias": getattr(module, "bias", None),
        "kind": "rms" if "RMSNorm" in type(module).__name__ else "layer",
        "eps": module.eps,
    }
