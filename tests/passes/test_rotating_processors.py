"""Attention processors of many models: fused, they compute what they compute stock."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import Attention
from gpu_rounding import gpu_rounding
from kernel_checks import noise, relative_error

from sdaccel.benchmarks.measure import EXACT_ERROR, EXACT_RATIO
from sdaccel.passes.rotations import rotation_rule
from sdaccel.passes.swap import RAN
from sdaccel.passes.unrotated import FUSED

B, H, D = 2, 3, 16
WIDTH = H * D
Case = tuple[Any, dict[str, Any]]


def part(name: str) -> Any:
    """A class of a transformer's module, 'cosmos.CosmosAttnProcessor2_0'."""
    module, _, kind = name.rpartition(".")
    prefix = "" if module.startswith("ace") else "transformer_"
    name = f"diffusers.models.transformers.{prefix}{module}"
    if diffusers.__version__ < "0.42":
        pytest.importorskip(name)
    return getattr(importlib.import_module(name), kind)


def tables(tokens: int, dim: int = D, order: str = "pairs", seed: int = 5) -> tuple[Any, Any]:
    angles = noise(tokens, dim // 2, seed=seed)
    both = angles.repeat_interleave(2, 1) if order == "pairs" else torch.cat([angles, angles], 1)
    return both.cos(), both.sin()


def numbers(tokens: int, seed: int = 5) -> torch.Tensor:
    angles = noise(tokens, D // 2, seed=seed)
    return torch.polar(torch.ones_like(angles), angles)


def attention(processor: Any, **changes: Any) -> Any:
    kind: Any = Attention
    settings = {"query_dim": WIDTH, "heads": H, "dim_head": D, "qk_norm": "rms_norm"}
    return kind(**{**settings, "processor": processor(), **changes})


def text_first(processor: str, tokens: int, **changes: Any) -> Case:
    """Text's tokens before the picture's; the picture's alone are rotated."""
    module = attention(part(processor), qk_norm="layer_norm", **changes)
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "encoder_hidden_states": noise(B, 4, WIDTH, seed=1),
        "image_rotary_emb": tables(tokens, order="halves"),
    }


def cogview4(tokens: int) -> Case:
    return text_first("cogview4.CogView4AttnProcessor", tokens, elementwise_affine=False)


def glm_image(tokens: int) -> Case:
    return text_first("glm_image.GlmImageAttnProcessor", tokens, elementwise_affine=False)


def easyanimate(tokens: int) -> Case:
    module, inputs = text_first("easyanimate.EasyAnimateAttnProcessor2_0", tokens)
    return module, {**inputs, "image_rotary_emb": tables(tokens)}


def cosmos(tokens: int) -> Case:
    return attention(part("cosmos.CosmosAttnProcessor2_0")), {
        "hidden_states": noise(B, tokens, WIDTH),
        "image_rotary_emb": tables(tokens, order="halves"),
    }


def ltx2_tables(rope_type: str, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = noise(B, tokens, WIDTH // 2, seed=seed)
    if rope_type == "interleaved":
        angles = angles.repeat_interleave(2, 2)
    else:
        angles = angles.unflatten(2, (H, -1)).swapaxes(1, 2)
    return angles.cos(), angles.sin()


def ltx2(rope_type: str) -> Callable[[int], Case]:
    """Video that looks at sound: another length and other tables for the key."""

    def case(tokens: int) -> Case:
        module = part("ltx2.LTX2Attention")(WIDTH, H, H, D, rope_type=rope_type)
        return module, {
            "hidden_states": noise(B, tokens, WIDTH),
            "encoder_hidden_states": noise(B, 5, WIDTH, seed=1),
            "query_rotary_emb": ltx2_tables(rope_type, tokens, 2),
            "key_rotary_emb": ltx2_tables(rope_type, 5, 3),
        }

    return case


def perturbed(prefix: str) -> Callable[[int], Case]:
    def case(tokens: int) -> Case:
        module = part(f"{prefix}Attention")(
            WIDTH,
            H,
            H,
            D,
            rope_type="split",
            apply_gated_attention=True,
            processor=part(f"{prefix}PerturbedAttnProcessor")(),
        )
        return module, {
            "hidden_states": noise(B, tokens, WIDTH),
            "query_rotary_emb": ltx2_tables("split", tokens, 2),
            "perturbation_mask": noise(B, tokens, 1, seed=4).sigmoid(),
            "all_perturbed": False,
        }

    return case


def flux2_kv(tokens: int) -> Case:
    processor = part("flux2.Flux2KVAttnProcessor")()
    module = part("flux2.Flux2Attention")(WIDTH, H, D, added_kv_proj_dim=WIDTH, processor=processor)
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "encoder_hidden_states": noise(B, 4, WIDTH, seed=1),
        "image_rotary_emb": tables(tokens + 4),
    }


def flux2_kv_parallel(tokens: int) -> Case:
    processor = part("flux2.Flux2KVParallelSelfAttnProcessor")()
    module = part("flux2.Flux2ParallelSelfAttention")(WIDTH, H, D, processor=processor)
    return module, {"hidden_states": noise(B, tokens, WIDTH), "image_rotary_emb": tables(tokens)}


def flux3(tokens: int) -> Case:
    module = part("flux3.Flux3Attention")(WIDTH, H, D)
    return module, {"hidden_states": noise(B, tokens, WIDTH), "image_rotary_emb": tables(tokens)}


def bria_fibo2(tokens: int) -> Case:
    module = part("bria_fibo2.BriaFibo2Attention")(WIDTH, H, D)
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "freqs_cis": numbers(tokens).expand(B, -1, -1),
    }


def nucleus(tokens: int) -> Case:
    """Fewer heads of key than of query; text has keys of its own, and no query."""
    module = attention(
        part("nucleusmoe_image.NucleusMoEAttnProcessor2_0"),
        heads=4,
        dim_head=12,
        kv_heads=2,
        added_kv_proj_dim=WIDTH,
        added_proj_bias=False,
        context_pre_only=None,
    )
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "encoder_hidden_states": noise(B, 4, WIDTH, seed=1),
        "image_rotary_emb": (numbers(tokens)[:, :6], numbers(4, 6)[:, :6]),
    }


def ace_step(tokens: int) -> Case:
    module = part("ace_step_transformer.AceStepAttention")(WIDTH, 4, 2, 12)
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "image_rotary_emb": tables(tokens, 12, "halves"),
    }


def helios(tokens: int) -> Case:
    module = part("helios.HeliosAttention")(
        WIDTH, H, D, is_cross_attention=False, processor=part("helios.HeliosAttnProcessor")()
    )
    cos_and_sin = torch.cat(tables(tokens), 1).expand(B, -1, -1)
    return module, {"hidden_states": noise(B, tokens, WIDTH), "rotary_emb": cos_and_sin}


def motif(tokens: int) -> Case:
    """Text behind the video, in the same projections; the video alone is rotated."""
    module = part("motif_video.MotifVideoAttention")(WIDTH, H, D, pre_only=True)
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "encoder_hidden_states": noise(B, 4, WIDTH, seed=1),
        "image_rotary_emb": tables(tokens),
    }


def motif_cross(tokens: int) -> Case:
    module = part("motif_video.MotifVideoCrossAttention")(WIDTH, H, D)
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "encoder_hidden_states": noise(B, 4, WIDTH, seed=1),
        "image_rotary_emb": tables(tokens),
    }


def minimax(tokens: int) -> Case:
    """Only a head's first channels are rotated."""
    module = part("minimax_h3.MiniMaxH3Attention")(WIDTH, H, D)
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "rotary_emb": tables(tokens, 12, "halves"),
    }


def lumina(tokens: int) -> Case:
    """Norms across heads, which are made by `view`; fewer heads of key than of query."""
    from diffusers.models.attention_processor import LuminaAttnProcessor2_0

    module = attention(
        LuminaAttnProcessor2_0,
        qk_norm="layer_norm_across_heads",
        kv_heads=1,
    )
    freqs = numbers(tokens).expand(B, -1, -1)
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "encoder_hidden_states": noise(B, tokens, WIDTH),
        "attention_mask": torch.ones(B, tokens, dtype=torch.bool),
        "query_rotary_emb": freqs,
        "key_rotary_emb": freqs,
    }


def matrices(tokens: int) -> torch.Tensor:
    """cos, -sin, sin, cos of each pair, (1, S, 1, D/2, 2, 2)."""
    turned = numbers(tokens)
    rows = torch.stack([turned.real, -turned.imag, turned.imag, turned.real], -1)
    return rows.unflatten(-1, (2, 2))[None, :, None]


def prx(tokens: int) -> Case:
    """Query, key and value in one projection; text has keys of its own, and no query."""
    module = part("prx.PRXAttention")(WIDTH, H, D)
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "encoder_hidden_states": noise(B, 4, WIDTH, seed=1),
        "image_rotary_emb": matrices(tokens).swapaxes(1, 2),
    }


def hidream(tokens: int) -> Case:
    """Norms across heads, of text and of picture; both are rotated, query and key in one call."""
    processor = part("hidream_image.HiDreamAttnProcessor")()
    module = part("hidream_image.HiDreamAttention")(WIDTH, H, D, processor=processor)
    return module, {
        "norm_hidden_states": noise(B, tokens, WIDTH),
        "norm_encoder_hidden_states": noise(B, 4, WIDTH, seed=1),
        "image_rotary_emb": matrices(tokens + 4).expand(B, -1, -1, -1, -1, -1),
    }


def hidream_single(tokens: int) -> Case:
    """Tokens that pad a picture that is no square: the key is multiplied by a mask."""
    processor = part("hidream_image.HiDreamAttnProcessor")()
    kind = part("hidream_image.HiDreamAttention")
    return kind(WIDTH, H, D, processor=processor, single=True), {
        "norm_hidden_states": noise(B, tokens, WIDTH),
        "hidden_states_masks": (torch.arange(tokens) < tokens - 1).expand(B, -1).float(),
        "image_rotary_emb": matrices(tokens),
    }


def kandinsky(tokens: int) -> Case:
    """Norms by way of fp32, without an eps of their own."""
    module = part("kandinsky.Kandinsky5Attention")(WIDTH, D)
    return module, {"hidden_states": noise(B, tokens, WIDTH), "rotary_emb": matrices(tokens)}


def ernie(tokens: int) -> Case:
    """Angles of pairs, by which halves are turned: a value of its own for each channel."""
    angles = noise(B, tokens, 1, D // 2, seed=5).repeat_interleave(2, 3)
    return part("ernie_image.ErnieImageAttention")(WIDTH, H, D), {
        "hidden_states": noise(B, tokens, WIDTH),
        "image_rotary_emb": angles,
    }


def ernie_in_part(tokens: int) -> Case:
    """Only a head's first channels are rotated."""
    module, inputs = ernie(tokens)
    return module, {**inputs, "image_rotary_emb": inputs["image_rotary_emb"][..., :12]}


def joy_image(text_is_rotated: bool) -> Callable[[int], Case]:
    """Query, key and value in one projection of each stream; query and key are rotated at once."""

    def case(tokens: int) -> Case:
        module = part("joyimage.JoyImageAttention")(WIDTH, H, D)
        return module, {
            "hidden_states": noise(B, tokens, WIDTH),
            "encoder_hidden_states": noise(B, 4, WIDTH, seed=1),
            "image_rotary_emb": (tables(tokens), tables(4, seed=6) if text_is_rotated else None),
        }

    return case


def joy_image_edit(tokens: int) -> Case:
    """Tables of each sample its own."""
    module = part("joyimage_edit_plus.JoyImageEditPlusAttention")(WIDTH, H, D)
    one, other = tables(tokens), tables(tokens, seed=6)
    return module, {
        "hidden_states": noise(B, tokens, WIDTH),
        "encoder_hidden_states": noise(B, 4, WIDTH, seed=1),
        "image_rotary_emb": tuple(map(torch.stack, zip(one, other, strict=True))),
    }


def perturbed_hunyuan(processor: str) -> Callable[[int], Case]:
    """Guidance by perturbed attention: the last half or third of the batch attends to nothing."""

    def case(tokens: int) -> Case:
        from diffusers.models import attention_processor

        module = attention(getattr(attention_processor, processor), qk_norm="layer_norm")
        return module, {
            "hidden_states": noise(6, tokens, WIDTH),
            "image_rotary_emb": tables(tokens),
        }

    return case


def z_image_control(tokens: int) -> Case:
    from diffusers.models.controlnets import controlnet_z_image

    module = attention(controlnet_z_image.ZSingleStreamAttnProcessor)
    freqs = numbers(tokens).expand(B, -1, -1)
    return module, {"hidden_states": noise(B, tokens, WIDTH), "freqs_cis": freqs}


CASES: dict[str, tuple[Callable[[int], Case], int]] = {
    "CogView 4": (cogview4, 2),
    "GLM-Image": (glm_image, 2),
    "EasyAnimate": (easyanimate, 2),
    "Cosmos": (cosmos, 2),
    "LTX 2": (ltx2("split"), 2),
    "LTX 2, interleaved": (ltx2("interleaved"), 2),
    "LTX 2, perturbed": (perturbed("ltx2.LTX2"), 2),
    "Sana-WM, perturbed": (perturbed("sana_wm_refiner.SanaWMLTX2"), 2),
    "FLUX.2 with cached keys": (flux2_kv, 2),
    "FLUX.2 with cached keys, single": (flux2_kv_parallel, 2),
    "FLUX.3": (flux3, 2),
    "Bria Fibo 2": (bria_fibo2, 2),
    "NucleusMoE": (nucleus, 3),
    "ACE-Step": (ace_step, 2),
    "Helios": (helios, 2),
    "Motif-Video": (motif, 2),
    "Motif-Video, cross": (motif_cross, 1),
    "MiniMax H3": (minimax, 2),
    "Lumina": (lumina, 2),
    "PRX": (prx, 2),
    "HiDream": (hidream, 2),
    "HiDream, single": (hidream_single, 1),
    "Kandinsky 5": (kandinsky, 2),
    "ErnieImage": (ernie, 2),
    "ErnieImage, in part": (ernie_in_part, 2),
    "JoyImage": (joy_image(True), 4),
    "JoyImage, text left": (joy_image(False), 2),
    "JoyImage Edit Plus": (joy_image_edit, 2),
    "HunyuanDiT, perturbed": (perturbed_hunyuan("PAGHunyuanAttnProcessor2_0"), 2),
    "HunyuanDiT, guided too": (perturbed_hunyuan("PAGCFGHunyuanAttnProcessor2_0"), 2),
    "Z-Image's ControlNet": (z_image_control, 2),
}
"""A processor's attention and inputs for a number of tokens, and how many norms it has to fuse."""

BF16_ALONE = {"Kandinsky 5"}
"""Stock rotates in bf16 there, whatever the dtype."""


def built(name: str, tokens: int, seed: int) -> Case:
    torch.manual_seed(seed)
    module, inputs = CASES[name][0](tokens)
    for key, weight in module.named_parameters():
        torch.nn.init.normal_(weight, 1.0 if "norm" in key and "weight" in key else 0.0, 0.2)
    return module.eval(), inputs


def fuse(module: Any) -> Counter[str]:
    ran: Counter[str] = Counter()
    for swap in list(rotation_rule(module)):
        swap.owner.__class__ = swap.subclass
        swap.owner.__dict__[RAN] = ran
    return ran


def rounded(module: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """A module and its inputs in bf16, tables and norms kept in fp32 where the model keeps them."""
    kept = [module.norm_q, module.norm_k] if type(module).__name__ == "Flux3Attention" else []
    module.to(torch.bfloat16)
    for norm in kept:
        norm.float()
    states = ("hidden_states", "perturbation_mask", "hidden_states_masks")
    return {
        key: value.bfloat16() if key.endswith(states) else value for key, value in inputs.items()
    }


def flat(output: Any) -> torch.Tensor:
    outputs = output if isinstance(output, tuple) else (output,)
    return torch.cat([each.flatten().double() for each in outputs])


# torch, of the norms of Kandinsky 5, stock
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
@pytest.mark.parametrize(("tokens", "seed"), [(3, 0), (10, 1)])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_fused_processor_is_exact(name: str, tokens: int, seed: int) -> None:
    module, inputs = built(name, tokens, seed)
    truth = flat(module(**inputs))
    ran = fuse(module)
    assert relative_error(flat(module(**inputs)), truth) <= EXACT_ERROR
    assert ran[FUSED] == (0 if name in BF16_ALONE else CASES[name][1])

    module = built(name, tokens, seed)[0]
    inputs = rounded(module, inputs)
    stock = relative_error(flat(module(**inputs)), truth)
    ran = fuse(module)
    with gpu_rounding():
        assert relative_error(flat(module(**inputs)), truth) <= EXACT_RATIO * stock
    assert ran[FUSED] == CASES[name][1]


@torch.no_grad()
def test_keys_kept_for_pictures_to_come_are_stock_s() -> None:
    cache_kind = part("glm_image.GlmImageLayerKVCache")
    module, inputs = built("GLM-Image", 7, 0)
    outputs = []
    for fused in (False, True):
        if fused:
            fuse(module)
        cache = cache_kind()
        for cache.mode in ("write", "write", "read"):
            output = module(**inputs, kv_cache=cache)
        outputs.append(flat(output))
    assert relative_error(outputs[1], outputs[0]) <= EXACT_ERROR
