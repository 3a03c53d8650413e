"""What diffusers can switch on in a model, and how a test knows that it is on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.hooks import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from peft import LoraConfig

from sdaccel.benchmarks.families import SIZES, families
from sdaccel.benchmarks.family_pipeline import FamilyPipeline, model_of


@dataclass(frozen=True)
class Feature:
    """Something that diffusers switches on in a family's model.

    `works` tells whether it is at work there; `changes` whether the output shows it. `inputs` are
    further arguments of the forward. `steps` forwards are made, in one cache context. One that
    `copies` the weights keeps their memory format, where restore can't reach it.
    """

    family: str
    enable: Callable[[Any], object]
    works: Callable[[Any], bool]
    changes: bool = True
    inputs: Callable[[], dict[str, Any]] = dict
    steps: int = 1
    copies: bool = False

    def output(self, pipe: FamilyPipeline, **more: Any) -> torch.Tensor:
        """The last step's output."""
        (family,) = families([self.family])
        model = model_of(pipe)
        if self.steps > 1:
            model._reset_stateful_cache()
        with model.cache_context("cond") if self.steps > 1 else nullcontext():
            for step in range(self.steps):
                found = pipe(**family.draw(SIZES[0], step, torch.float32), **more)
        return found


def lora(model: Any) -> None:
    """Adapters of rank 2 in attention and feed-forwards, none of them zero."""
    targets = [
        "to_q",
        "to_v",
        "proj",
        "net.2",
        "to_out.0",
        "linear_in",
        "proj_mlp",
        "ff.net.0.proj",
    ]
    torch.manual_seed(0)
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))


def has_lora(model: Any) -> bool:
    return sum("lora_B" in name for name, _ in model.named_parameters()) > 4


def ip_adapter(model: Any) -> None:
    """An adapter for four tokens of a picture, with random weights."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * shape[-1] ** -0.5

    weights = {}
    for index, name in enumerate(model.attn_processors):
        attention = model.get_submodule(name.removesuffix(".processor"))
        if attention.is_cross_attention:
            width = attention.to_k.out_features
            weights[f"{index}.to_k_ip.weight"] = draw(width, 24)
            weights[f"{index}.to_v_ip.weight"] = draw(width, 24)
    projection = {
        "proj.weight": draw(4 * 24, 12),
        "proj.bias": draw(4 * 24),
        "norm.weight": 1 + draw(24),
        "norm.bias": draw(24),
    }
    state = {"image_proj": projection, "ip_adapter": weights}
    model._load_ip_adapter_weights([state], low_cpu_mem_usage=False)


def picture() -> dict[str, Any]:
    """An embedding of one picture for each sample."""
    embedding = torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(1))
    return {"added_cond_kwargs": {"image_embeds": [embedding]}}


def has_processors(name: str) -> Callable[[Any], bool]:
    """Whether some attention has a processor of this class."""
    return lambda model: name in {type(each).__name__ for each in model.attn_processors.values()}


def has_hook(name: str) -> Callable[[Any], bool]:
    """Whether some module has this hook of diffusers."""

    def found(model: Any) -> bool:
        registries = [getattr(each, "_diffusers_hook", None) for each in model.modules()]
        return any(each is not None and each.get_hook(name) is not None for each in registries)

    return found


def broadcast(model: Any) -> None:
    """Attention's output is taken from the step before."""
    model.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(0, 1000),
            current_timestep_callback=lambda: 500,
        )
    )


def group_offload(model: Any) -> None:
    """Weights wait on the CPU for each leaf's call, which is on the CPU as well."""
    cpu = torch.device("cpu")
    model.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


def is_offloaded(model: Any) -> bool:
    return any(hasattr(each, "_hf_hook") for each in model.modules())


FEATURES = {
    "LoRA in a UNet": Feature("SD 1.5", lora, has_lora),
    "LoRA in FLUX": Feature("FLUX.1", lora, has_lora),
    "LoRA in Wan": Feature("Wan 2.1", lora, has_lora),
    "IP-Adapter": Feature(
        "SD 1.5", ip_adapter, has_processors("IPAdapterAttnProcessor2_0"), inputs=picture
    ),
    "FreeU": Feature(
        "SD 1.5",
        lambda model: model.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4),
        lambda model: any(getattr(each, "b1", None) == 1.2 for each in model.up_blocks),
    ),
    "attention slicing": Feature(
        "SD 1.5",
        lambda model: model.set_attention_slice(1),
        has_processors("SlicedAttnProcessor"),
        changes=False,
    ),
    "fused projections in a UNet": Feature(
        "SD 1.5",
        lambda model: model.fuse_qkv_projections(),
        has_processors("FusedAttnProcessor2_0"),
        changes=False,
    ),
    "fused projections in SD 3": Feature(
        "SD 3",
        lambda model: model.fuse_qkv_projections(),
        has_processors("FusedJointAttnProcessor2_0"),
        changes=False,
    ),
    "fused projections in FLUX": Feature(
        "FLUX.1",
        lambda model: model.fuse_qkv_projections(),
        lambda model: model.transformer_blocks[0].attn.fused_projections,
        changes=False,
    ),
    "FirstBlockCache in FLUX": Feature(
        "FLUX.1",
        lambda model: model.enable_cache(FirstBlockCacheConfig(threshold=1e9)),
        has_hook("fbc_leader_block_hook"),
        steps=2,
    ),
    "FirstBlockCache in Wan": Feature(
        "Wan 2.1",
        lambda model: model.enable_cache(FirstBlockCacheConfig(threshold=1e9)),
        has_hook("fbc_leader_block_hook"),
        steps=2,
    ),
    "PyramidAttentionBroadcast in FLUX": Feature(
        "FLUX.1", broadcast, has_hook("pyramid_attention_broadcast"), steps=2
    ),
    "PyramidAttentionBroadcast in Latte": Feature(
        "Latte", broadcast, has_hook("pyramid_attention_broadcast"), steps=2
    ),
    "group offload of a UNet": Feature(
        "SD 1.5", group_offload, has_hook("group_offloading"), changes=False
    ),
    "group offload of FLUX": Feature(
        "FLUX.1", group_offload, has_hook("group_offloading"), changes=False
    ),
    "sequential offload of a UNet": Feature(
        "SD 1.5",
        lambda model: cpu_offload(model, torch.device("cpu")),
        is_offloaded,
        changes=False,
        copies=True,
    ),
    "sequential offload of FLUX": Feature(
        "FLUX.1",
        lambda model: cpu_offload(model, torch.device("cpu")),
        is_offloaded,
        changes=False,
        copies=True,
    ),
    "model offload of FLUX": Feature(
        "FLUX.1",
        lambda model: cpu_offload_with_hook(model, torch.device("cpu")),
        is_offloaded,
        changes=False,
    ),
}
