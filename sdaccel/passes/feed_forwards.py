"""The activations of feed-forwards, one pass over memory each.

Where an activation has one kernel already (GELU by erf or tanh, SiLU) nothing is to be gained. On a
CPU the op's tanh-GELU takes 0.7 of torch's time in bf16 (2 x 1024 x 4608), but a block of PixArt or
SD3 is no faster with it, and slower where other processes share the cores: it is left to torch.
Feed-forwards of Z-Image, Lumina2, AuraFlow, ErnieImage and others have their halves in two
projections. They are not joined, which would take the memory of the weights again, or the weights
away from adapters and offloading: the op takes two tensors. Where `F.silu(...) * ...` stands is
found by `arithmetic`.

Stock's time over the op's on 2 cores of an AMD EPYC (Zen 5, AVX-512 with bf16): GEGLU and SwiGLU
1.0 in bf16, 1.1 in fp32; SiLU by way of fp32 in bf16 1.3; ApproximateGELU 0.8.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

from .arithmetic_calls import settled
from .gated import takes_residual
from .swap import RAN, Forward, Rule, Swap, by_torch, is_hooked, name_of, plainly, swap

_SILUS = {"torch.nn.modules.activation.SiLU", "diffusers.models.activations.FP32SiLU"}


def gated(activation: Any, gate_first: bool = False, projected: bool = True) -> Rule:
    """Halves of a projection, one of them activated; `projected`: the module has the projection."""
    fuse = _gated_forward(activation, gate_first, projected)

    def rule(module: Any) -> Iterator[Swap]:
        yield swap(module, fuse, "gated activation", 2)

    return rule


@functools.cache
def _gated_forward(
    activation: Any, gate_first: bool, projected: bool
) -> Callable[[Forward], Forward]:
    def fuse(stock: Forward) -> Forward:
        def forward(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            if args or kwargs or not plainly(hidden_states):
                return stock(self, hidden_states, *args, **kwargs)
            from ..kernels.gated_activation import gated_activation, gated_activation_reference

            self.__dict__[RAN]["gated activations"] += 1
            if projected:
                hidden_states = self.proj(hidden_states)
            if by_torch(hidden_states):
                return gated_activation_reference(hidden_states, None, activation, gate_first)
            return gated_activation(hidden_states, activation=activation, gate_first=gate_first)

        return forward

    return fuse


def activated_times(block: Any, function: Any, gate: Any, value: Any) -> Any:
    """`function(gate) * value`, the activation a function or a module of a block."""
    gate, value = settled(block, gate), settled(block, value)
    activation = _activation_of(function)
    if activation is None or not plainly(gate) or not takes_residual(value, gate):
        return function(gate) * value
    from ..kernels.gated_activation import activated_product

    block.__dict__[RAN]["gated activations"] += 1
    return activated_product(gate, value, activation=activation)


def times_activated(block: Any, value: Any, function: Any, gate: Any) -> Any:
    """`value * function(gate)`: the same, what is given in the order in which it is computed."""
    return activated_times(block, function, gate, value)


def _activation_of(function: Any) -> Literal["silu", "gelu"] | None:
    """The op's name for torch's SiLU or GELU, or for a module of SiLU that nobody hooked."""
    import torch

    if function is torch.nn.functional.gelu:
        return "gelu"
    if function is torch.nn.functional.silu:
        return "silu"
    known = name_of(type(function)) in _SILUS and not is_hooked(function)
    return (
        "silu" if known and not (function._forward_hooks or function._forward_pre_hooks) else None
    )


def approximate_gelu(module: Any) -> Iterator[Swap]:
    """x * sigmoid(1.702 x): on a GPU; on a CPU torch's three passes are faster."""
    yield swap(module, _activation("gelu_quick", lambda x: not by_torch(x)), "activation", 5)


def silu_in_fp32(module: Any) -> Iterator[Swap]:
    """SiLU by way of fp32: the same values, which torch's kernel computes in fp32 anyway."""
    fuse = _activation("silu", lambda x: x.element_size() == 2, projected=False)
    yield swap(module, fuse, "activation", 4)


def _activation(
    activation: Any, wanted: Callable[[Any], bool], projected: bool = True
) -> Callable[[Forward], Forward]:
    """`wanted` says for which input the op is the faster one."""

    def fuse(stock: Forward) -> Forward:
        def forward(self: Any, hidden_states: Any) -> Any:
            if not plainly(hidden_states) or not wanted(hidden_states):
                return stock(self, hidden_states)
            from ..kernels.gated_activation import activation as activate

            self.__dict__[RAN]["activations in one pass"] += 1
            if projected:
                hidden_states = self.proj(hidden_states)
            return activate(hidden_states, activation=activation)

        return forward

    return fuse
