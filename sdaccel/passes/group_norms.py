"""Where GroupNorm stands: SiLU follows in ResNets and at a model's end, tokens before attention.

On a GPU torch copies feature maps that are channels-last for its GroupNorm, and what it returns is
copied again into tokens (B, S, C). The op keeps the layout, in which a map is tokens already.

On a CPU `fuse` leaves them to torch, with SiLU in place: `group_norm` has machine code there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from .swap import RAN, Forward, Swap, by_torch, is_hooked, name_of, plainly, swap

Fused = Callable[[Forward], Forward]
_RESNETS = {
    "diffusers.models.resnet.ResnetBlock2D",
    "diffusers.models.resnet.TemporalResnetBlock",
    "diffusers.models.autoencoders.autoencoder_kl_hunyuan_video.HunyuanVideoResnetBlockCausal3D",
}
_BEFORE_ATTENTION = {
    "diffusers.models.attention_processor.Attention": "group_norm",
    "diffusers.models.transformers.transformer_2d.Transformer2DModel": "norm",
    "diffusers.models.transformers.transformer_temporal.TransformerTemporalModel": "norm",
    "diffusers.models.transformers.transformer_temporal.TransformerSpatioTemporalModel": "norm",
}
"""Where a GroupNorm stands before tokens are made of a feature map, by the name of its owner."""


def norm_before_attention(module: Any, fuse: Fused | None = None) -> Iterator[Swap]:
    """The GroupNorm of a transformer in a UNet, or of the attention in a VAE.

    `fuse` makes its new `forward` of its own.
    """
    import torch

    norm = getattr(module, _BEFORE_ATTENTION.get(name_of(type(module)), ""), None)
    if type(norm) is torch.nn.GroupNorm:
        yield swap(norm, fuse or _group_norm, "GroupNorm before attention", 0)


def norm_then_silu(module: Any, owners: Counter[int], fuse: Fused | None = None) -> Iterator[Swap]:
    """The norms of ResNets, which SiLU follows, and a model's last norm and activation.

    `owners` counts the modules that have an activation, by its id.
    """
    if name_of(type(module)) in _RESNETS:
        # The other kinds, "default" and the "group" of VAEs, have SiLU right behind both norms.
        if getattr(module, "time_embedding_norm", "default") == "scale_shift":
            return
        norms, activation = [module.norm1, module.norm2], module.nonlinearity
    else:
        norms, activation = (
            [getattr(module, "conv_norm_out", None)],
            getattr(module, "conv_act", None),
        )
    if not _are_groups_then_silu(norms, activation) or owners[id(activation)] != 1:
        return
    if not any(is_hooked(each) for each in (*norms, activation)):
        for norm in norms:
            yield swap(norm, fuse or _group_norm_silu, "GroupNorm+SiLU", 2)
        yield swap(activation, _done_already, "SiLU that its norm does", 0)


def _are_groups_then_silu(norms: list[Any], activation: Any) -> bool:
    import torch

    return type(activation) is torch.nn.SiLU and all(
        type(norm) is torch.nn.GroupNorm for norm in norms
    )


def _group_norm_silu(stock: Forward) -> Forward:
    def forward(self: Any, hidden_states: Any) -> Any:
        if not plainly(hidden_states):
            return _silu(stock(self, hidden_states))
        if by_torch(hidden_states):
            self.__dict__[RAN]["SiLUs in place behind their GroupNorm"] += 1
            return _silu(stock(self, hidden_states), inplace=True)
        from ..kernels.group_norm_silu import group_norm_silu

        return group_norm_silu(hidden_states, self.num_groups, self.weight, self.bias, eps=self.eps)

    return forward


def _group_norm(stock: Forward) -> Forward:
    def forward(self: Any, hidden_states: Any) -> Any:
        if not plainly(hidden_states) or hidden_states.dim() < 3 or by_torch(hidden_states):
            return stock(self, hidden_states)
        from ..kernels.group_norm_silu import group_norm_silu

        self.__dict__[RAN]["GroupNorms before attention that keep the layout"] += 1
        affine = self.num_groups, self.weight, self.bias
        return group_norm_silu(hidden_states, *affine, eps=self.eps, silu=False)

    return forward


def _silu(hidden_states: Any, inplace: bool = False) -> Any:
    import torch

    return torch.nn.functional.silu(hidden_states, inplace=inplace)


def _done_already(stock: Forward) -> Forward:
    """A ResNet's activation also serves the time embedding, (N, C) or (N, F, C): that it does."""

    def forward(self: Any, hidden_states: Any) -> Any:
        return hidden_states if hidden_states.dim() > 3 else stock(self, hidden_states)

    return forward
