"""The attention processors of which it was read that norms of query and key precede a rotation.

Query and key are fresh projections there that nobody else uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Names = tuple[str, ...]
NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")


@dataclass(frozen=True)
class Processor:
    """What its rotations are called, and which norms precede one: these, or as its attention says.

    `stays_flat`: what is normalised across heads is rotated before it is unflattened. `in_fp32`:
    norms are written as `norm(x.float()).type_as(x)`.
    """

    rotations: Names = ("apply_rotary_emb",)
    norms: Names | Callable[[Any], Names] = NORMS
    stays_flat: bool = False
    in_fp32: bool = False

    def norms_of(self, attention: Any) -> Names:
        """The names of an attention's norms that precede a rotation."""
        return self.norms(attention) if callable(self.norms) else self.norms


def _unless_cross(attention: Any) -> Names:
    return () if attention.is_cross_attention else NORMS


def _no_key_in_cross(attention: Any) -> Names:
    return ("norm_q",) if attention.is_cross_attention else NORMS


def _unless_added(attention: Any) -> Names:
    """What lies behind text of other projections is a view of a copy."""
    return () if attention.add_q_proj is not None else NORMS


_OWN_ONLY = NORMS[:2]
"""The text's query and key are not rotated."""
_TRANSFORMERS = "diffusers.models.transformers.transformer_"
_ATTENTION = "diffusers.models.attention_processor."
_OF_JOY_IMAGE = tuple(f"{stream}_attn_{each}_norm" for stream in ("img", "txt") for each in "qk")
_LTX2 = Processor(("apply_interleaved_rotary_emb", "apply_split_rotary_emb"), stays_flat=True)
_ACE_STEP = "diffusers.models.transformers.ace_step_transformer.AceStepAttnProcessor2_0"
PROCESSORS = {
    _ACE_STEP: Processor(norms=_unless_cross),
    f"{_TRANSFORMERS}flux.FluxAttnProcessor": Processor(),
    f"{_TRANSFORMERS}flux2.Flux2AttnProcessor": Processor(),
    f"{_TRANSFORMERS}flux2.Flux2ParallelSelfAttnProcessor": Processor(),
    f"{_TRANSFORMERS}flux2.Flux2KVAttnProcessor": Processor(),
    f"{_TRANSFORMERS}flux2.Flux2KVParallelSelfAttnProcessor": Processor(),
    f"{_TRANSFORMERS}flux3.Flux3AttnProcessor": Processor(),
    f"{_TRANSFORMERS}bria.BriaAttnProcessor": Processor(),
    f"{_TRANSFORMERS}bria_fibo.BriaFiboAttnProcessor": Processor(),
    f"{_TRANSFORMERS}bria_fibo2.BriaFibo2AttnProcessor": Processor(),
    f"{_TRANSFORMERS}cogview4.CogView4AttnProcessor": Processor(),
    f"{_TRANSFORMERS}glm_image.GlmImageAttnProcessor": Processor(),
    f"{_TRANSFORMERS}easyanimate.EasyAnimateAttnProcessor2_0": Processor(norms=_unless_added),
    f"{_TRANSFORMERS}longcat_image.LongCatImageAttnProcessor": Processor(),
    f"{_TRANSFORMERS}ovis_image.OvisImageAttnProcessor": Processor(),
    f"{_TRANSFORMERS}krea2.Krea2AttnProcessor": Processor(),
    f"{_TRANSFORMERS}qwenimage.QwenDoubleStreamAttnProcessor2_0": Processor(
        ("apply_rotary_emb_qwen",)
    ),
    f"{_TRANSFORMERS}nucleusmoe_image.NucleusMoEAttnProcessor2_0": Processor(
        ("_apply_rotary_emb_nucleus",)
    ),
    f"{_TRANSFORMERS}z_image.ZSingleStreamAttnProcessor": Processor(),
    "diffusers.models.controlnets.controlnet_z_image.ZSingleStreamAttnProcessor": Processor(),
    f"{_TRANSFORMERS}ernie_image.ErnieImageSingleStreamAttnProcessor": Processor(),
    f"{_TRANSFORMERS}joyimage.JoyImageAttnProcessor": Processor(
        ("_apply_rotary_emb",), _OF_JOY_IMAGE
    ),
    f"{_TRANSFORMERS}joyimage_edit_plus.JoyImageEditPlusAttnProcessor": Processor(
        ("_apply_rotary_emb_batched",), _OF_JOY_IMAGE
    ),
    f"{_TRANSFORMERS}hidream_image.HiDreamAttnProcessor": Processor(
        ("apply_rope",), ("q_rms_norm", "k_rms_norm", "q_rms_norm_t", "k_rms_norm_t")
    ),
    f"{_TRANSFORMERS}prx.PRXAttnProcessor2_0": Processor(("apply_rope",), _OWN_ONLY),
    f"{_TRANSFORMERS}kandinsky.Kandinsky5AttnProcessor": Processor(
        ("apply_rotary",), ("query_norm", "key_norm"), in_fp32=True
    ),
    f"{_TRANSFORMERS}lumina2.Lumina2AttnProcessor2_0": Processor(),
    f"{_TRANSFORMERS}wan.WanAttnProcessor": Processor(norms=_unless_cross),
    f"{_TRANSFORMERS}wan_animate.WanAttnProcessor": Processor(norms=_unless_cross),
    f"{_TRANSFORMERS}chronoedit.WanAttnProcessor": Processor(norms=_unless_cross),
    f"{_TRANSFORMERS}skyreels_v2.SkyReelsV2AttnProcessor": Processor(norms=_unless_cross),
    f"{_TRANSFORMERS}helios.HeliosAttnProcessor": Processor(
        ("apply_rotary_emb_transposed",), _unless_cross
    ),
    f"{_TRANSFORMERS}cosmos.CosmosAttnProcessor2_0": Processor(norms=_unless_cross),
    f"{_TRANSFORMERS}cosmos.CosmosAttnProcessor2_5": Processor(norms=_unless_cross),
    f"{_TRANSFORMERS}motif_video.MotifVideoAttnProcessor2_0": Processor(norms=_OWN_ONLY),
    f"{_TRANSFORMERS}motif_video.MotifVideoCrossAttnProcessor2_0": Processor(norms=("norm_q",)),
    f"{_TRANSFORMERS}minimax_h3.MiniMaxH3AttnProcessor": Processor(("_apply_rotary_emb",)),
    f"{_TRANSFORMERS}ltx.LTXVideoAttnProcessor": Processor(stays_flat=True),
    f"{_TRANSFORMERS}ltx2.LTX2AudioVideoAttnProcessor": _LTX2,
    f"{_TRANSFORMERS}ltx2.LTX2PerturbedAttnProcessor": _LTX2,
    f"{_TRANSFORMERS}sana_wm_refiner.SanaWMLTX2AudioVideoAttnProcessor": _LTX2,
    f"{_TRANSFORMERS}sana_wm_refiner.SanaWMLTX2PerturbedAttnProcessor": _LTX2,
    f"{_TRANSFORMERS}hunyuan_video.HunyuanVideoAttnProcessor2_0": Processor(norms=_OWN_ONLY),
    f"{_TRANSFORMERS}hunyuan_video15.HunyuanVideo15AttnProcessor2_0": Processor(norms=_OWN_ONLY),
    f"{_TRANSFORMERS}hunyuanimage.HunyuanImageAttnProcessor": Processor(norms=_OWN_ONLY),
    f"{_ATTENTION}CogVideoXAttnProcessor2_0": Processor(),
    f"{_ATTENTION}FusedCogVideoXAttnProcessor2_0": Processor(),
    f"{_ATTENTION}HunyuanAttnProcessor2_0": Processor(norms=_no_key_in_cross),
    f"{_ATTENTION}FusedHunyuanAttnProcessor2_0": Processor(norms=_no_key_in_cross),
    f"{_ATTENTION}PAGHunyuanAttnProcessor2_0": Processor(norms=_no_key_in_cross),
    f"{_ATTENTION}PAGCFGHunyuanAttnProcessor2_0": Processor(norms=_no_key_in_cross),
    f"{_ATTENTION}LuminaAttnProcessor2_0": Processor(norms=_no_key_in_cross),
    f"{_ATTENTION}MochiAttnProcessor2_0": Processor(norms=_OWN_ONLY),
}


OF_TEXT = {
    f"{_TRANSFORMERS}ltx.LTXVideoTransformerBlock": ("attn2",),
    f"{_TRANSFORMERS}ltx2.LTX2VideoTransformerBlock": ("attn2", "audio_attn2"),
    f"{_TRANSFORMERS}sana_wm_refiner.SanaWMLTX2RefinerTransformerBlock": ("attn2",),
    f"{_TRANSFORMERS}kandinsky.Kandinsky5TransformerDecoderBlock": ("cross_attention",),
}
"""A block's attentions to text, which rotate nothing and don't know it themselves."""
