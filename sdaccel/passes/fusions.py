"""Where one op of `kernels` takes the place of several in a model: all rules, in their order."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Container, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from .blocks import block_rule
from .channel_norms import channel_norm_rule
from .feed_forwards import approximate_gelu, gated, silu_in_fp32
from .group_norms import norm_before_attention, norm_then_silu
from .norms import norm_rule
from .rotations import never_rotating, rotation_rule
from .swap import Rule, Swap, is_hooked, name_of

if TYPE_CHECKING:
    import torch

_AUTOENCODERS = "diffusers.models.autoencoders.autoencoder_kl_"


def swaps(model: torch.nn.Module, left_out: Container[int] = ()) -> Iterator[Swap]:
    """What can be fused in a model, each module once; one that no rule knows is not among them.

    Modules whose `id` is in `left_out` stay as they are.
    """
    modules = [each for each in model.modules() if id(each) not in left_out]
    owners = Counter(id(child) for module in modules for child in module.children())
    done: set[int] = set()
    norms_with_silu: Rule = partial(norm_then_silu, owners=owners)
    rotations: Rule = partial(rotation_rule, left_out=never_rotating(modules))
    for rule in (rotations, block_rule, norms_with_silu, norm_before_attention, _leaf_rule):
        for module in modules:
            for swap in rule(module):
                if id(swap.owner) not in done:
                    yield swap
                    done.add(id(swap.owner))
                    if not is_hooked(swap.owner):
                        done.update(map(id, swap.covers))


def _leaf_rule(module: Any) -> Iterator[Swap]:
    rule = _leaf_rules().get(name_of(type(module)))
    if rule is not None:
        yield from rule(module)


@functools.cache
def _leaf_rules() -> dict[str, Rule]:
    """The rules for leaf modules, by the name of their class."""
    return {
        "torch.nn.modules.normalization.LayerNorm": norm_rule,
        "torch.nn.modules.normalization.RMSNorm": norm_rule,
        "diffusers.models.normalization.FP32LayerNorm": norm_rule,
        "diffusers.models.normalization.RMSNorm": norm_rule,
        "diffusers.models.normalization.MochiRMSNorm": norm_rule,
        f"{_AUTOENCODERS}wan.WanRMS_norm": channel_norm_rule,
        f"{_AUTOENCODERS}qwenimage.QwenImageRMS_norm": channel_norm_rule,
        "diffusers.models.activations.GEGLU": gated("gelu"),
        "diffusers.models.activations.SwiGLU": gated("silu"),
        "diffusers.models.transformers.transformer_flux2.Flux2SwiGLU": gated(
            "silu", gate_first=True, projected=False
        ),
        "diffusers.models.activations.ApproximateGELU": approximate_gelu,
        "diffusers.models.activations.FP32SiLU": silu_in_fp32,
    }
