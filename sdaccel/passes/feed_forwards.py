"""The activations of feed-forwards, one pass over memory each.

Where an activation has one kernel already (GELU by erf or tanh, SiLU) nothing is to be gained. On a
CPU the op's tanh-GELU takes 0.7 of torch's time in bf16 (2 x 1024 x 4608), but a block of PixArt or
SD3 is no faster with it, and slower where other processes share the cores: it is left to torch.
Z-Image's, Lumina2's and AuraFlow's feed-forwards have their halves in two projections. They are not
joined, which would take the memory of the weights again, or the weights away from adapters and
offloading: the op takes two tensors. Where `F.silu(...) * ...` stands is found by `arithmetic`.

Stock's time over the op's on 2 cores of an AMD EPYC (Zen 5, AVX-512 with bf16): GEGLU and SwiGLU
1.0 in bf16, 1.1 in fp32; SiLU by way of fp32 in bf16 1.3; ApproximateGELU 0.8.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

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


def silu_product(block: Any, silu: Any, gate: Any, value: Any) -> Any:
    """`silu(gate) * value`, silu a function or a module of a block."""
    gate, value = settled(block, gate), settled(block, value)
    if not _is_silu(silu) or not plainly(gate) or not takes_residual(value, gate):
        return silu(gate) * value
    from ..kernels.gated_activation import activated_product

    block.__dict__[RAN]["gated activations"] += 1
    return activated_product(gate, value, activation="silu")


def _is_silu(silu: Any) -> bool:
    """Whether it is torch's SiLU, or a module that does the same and nobody hooked."""
    import torch

    if silu is torch.nn.functional.silu:
        return True
    known = name_of(type(silu)) in _SILUS
    return known and not (is_hooked(silu) or silu._forward_hooks or silu._forward_pre_hooks)


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
