"""Where one op of `kernels` takes the place of several: leaf modules and small idioms.

Each rule gives modules a subclass of their own class, under the same name, whose `forward` calls
the op. With gradients on, and for dtypes that the ops don't know, the stock `forward` runs.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..patch import same_name_subclass
from .deferred import Deferred

if TYPE_CHECKING:
    import torch

Forward = Callable[..., Any]
RAN = "_sdaccel_ran"
"""Under this name a swapped module finds the counter of its pass."""


@dataclass(frozen=True)
class Swap:
    """A module, the class it is to have, and what that fuses, for the report.

    `saved` counts the passes over memory (a tensor read or written) that each call is spared.
    """

    module: torch.nn.Module
    subclass: type
    label: str
    saved: int


def swaps(model: torch.nn.Module) -> Iterator[Swap]:
    """What can be fused in a model; a module that no rule knows is not among it."""
    modules = list(model.modules())
    owners = Counter(id(child) for module in modules for child in module.children())
    for module in modules:
        yield from _norm_then_silu(module, owners)
        rule = _leaf_rules().get(_name(type(module)))
        if rule is not None:
            yield from rule(module)


def _swap(module: Any, fuse: Callable[[Forward], Forward], label: str, saved: int) -> Swap:
    base: Any = type(module)
    return Swap(module, _subclass(base, fuse), label, saved)


@functools.cache
def _subclass(base: Any, fuse: Callable[[Forward], Forward]) -> type:
    """One subclass for each class and rule, so that compiled code finds the same class again."""
    return same_name_subclass(base, {"forward": fuse(base.forward)})


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _plainly(hidden_states: Any) -> bool:
    """Whether the op can take this: a tensor of 16 or 32 bit, and no gradient asked for."""
    import torch

    from ..kernels.arguments import FLOATS

    return (
        isinstance(hidden_states, torch.Tensor)
        and hidden_states.dtype in FLOATS
        and not torch.is_grad_enabled()
    )


# GroupNorm, then SiLU -------------------------------------------------------------------------

_RESNETS = {
    "diffusers.models.resnet.ResnetBlock2D",
    "diffusers.models.resnet.TemporalResnetBlock",
}


def _norm_then_silu(module: Any, owners: Counter[int]) -> Iterator[Swap]:
    """The norms of ResNets, which SiLU follows, and a model's last norm and activation."""
    if _name(type(module)) in _RESNETS:
        if getattr(module, "time_embedding_norm", "default") != "default":
            return
        norms, activation = [module.norm1, module.norm2], module.nonlinearity
    else:
        norms, activation = (
            [getattr(module, "conv_norm_out", None)],
            getattr(module, "conv_act", None),
        )
    if _are_groups_then_silu(norms, activation) and owners[id(activation)] == 1:
        for norm in norms:
            yield _swap(norm, _group_norm_silu, "GroupNorm+SiLU", 2)
        yield _swap(activation, _done_already, "SiLU that its norm does", 0)


def _are_groups_then_silu(norms: list[Any], activation: Any) -> bool:
    import torch

    return type(activation) is torch.nn.SiLU and all(
        type(norm) is torch.nn.GroupNorm for norm in norms
    )


def _group_norm_silu(stock: Forward) -> Forward:
    def forward(self: Any, hidden_states: Any) -> Any:
        if not _plainly(hidden_states):
            return _silu(stock(self, hidden_states))
        from ..kernels.group_norm_silu import group_norm_silu

        return group_norm_silu(hidden_states, self.num_groups, self.weight, self.bias, eps=self.eps)

    return forward


def _silu(hidden_states: Any) -> Any:
    import torch

    return torch.nn.functional.silu(hidden_states)


def _done_already(stock: Forward) -> Forward:
    """A ResNet's activation also serves the time embedding, (N, C) or (N, F, C): that it does."""

    def forward(self: Any, hidden_states: Any) -> Any:
        return hidden_states if hidden_states.dim() > 3 else stock(self, hidden_states)

    return forward


# Norms ----------------------------------------------------------------------------------------


def _norm_rule(module: Any) -> Iterator[Swap]:
    """A norm without weights is one that is modulated; one with weights is fused as it is."""
    if module.weight is None:
        yield _swap(module, _modulated, "norm+modulate", 4)
    elif "RMSNorm" in type(module).__name__ or type(module).__name__ == "FP32LayerNorm":
        yield _swap(module, _whole_norm, "norm", 6)


def _modulated(stock: Forward) -> Forward:
    def forward(self: Any, hidden_states: Any) -> Any:
        if not _is_row_norm(self, hidden_states):
            return stock(self, hidden_states)
        return Deferred(hidden_states, _norm_of(self), self.__dict__[RAN])

    return forward


def _whole_norm(stock: Forward) -> Forward:
    def forward(self: Any, hidden_states: Any) -> Any:
        if not _is_row_norm(self, hidden_states) or self.weight.dtype != hidden_states.dtype:
            return stock(self, hidden_states)
        from ..kernels.norm_modulate import norm_modulate

        self.__dict__[RAN]["norms in one pass"] += 1
        return norm_modulate(hidden_states, **_norm_of(self))

    return forward


def _is_row_norm(module: Any, hidden_states: Any) -> bool:
    """Whether a norm is over the last dimension of something the op can take."""
    if not _plainly(hidden_states) or hidden_states.dim() < 2:
        return False
    over = getattr(module, "normalized_shape", None) or module.dim
    return tuple(over) == tuple(hidden_states.shape[-1:])


def _norm_of(module: Any) -> dict[str, Any]:
    """The op's arguments for a norm of torch or diffusers."""
    return {
        "weight": module.weight,
        "bias": getattr(module, "bias", None),
        "kind": "rms" if "RMSNorm" in type(module).__name__ else "layer",
        "eps": module.eps,
    }


# Feed-forwards --------------------------------------------------------------------------------


def _gated(activation: Any) -> Callable[[Any], Iterator[Swap]]:
    fuse = _gated_forward(activation)

    def rule(module: Any) -> Iterator[Swap]:
        yield _swap(module, fuse, "gated activation", 2)

    return rule


@functools.cache
def _gated_forward(activation: Any) -> Callable[[Forward], Forward]:
    def fuse(stock: Forward) -> Forward:
        def forward(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            if args or kwargs or not _plainly(hidden_states):
                return stock(self, hidden_states, *args, **kwargs)
            from ..kernels.gated_activation import gated_activation

            self.__dict__[RAN]["gated activations"] += 1
            return gated_activation(self.proj(hidden_states), activation=activation)

        return forward

    return fuse


@functools.cache
def _leaf_rules() -> dict[str, Callable[[Any], Iterator[Swap]]]:
    """The rules for leaf modules, by the name of their class."""
    return {
        "torch.nn.modules.normalization.LayerNorm": _norm_rule,
        "diffusers.models.normalization.FP32LayerNorm": _norm_rule,
        "diffusers.models.normalization.RMSNorm": _norm_rule,
        "diffusers.models.normalization.MochiRMSNorm": _norm_rule,
        "diffusers.models.activations.GEGLU": _gated("gelu"),
        "diffusers.models.activations.SwiGLU": _gated("silu"),
    }
