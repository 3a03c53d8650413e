"""The untrained components of the embedded diffusion transformer: stock classes of FLUX, tiny."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdaccel.shapes.models import LATENT_CHANNELS, TEXT_WIDTH

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

DEFAULTS: dict[str, Any] = {
    "height": 64,
    "width": 64,
    "num_inference_steps": 25,
    "true_cfg_scale": 3.0,
    "negative_prompt": "",
    "max_sequence_length": 24,
}


def build_t5_encoder(tokenizer: T5Tokenizer, **changes: Any) -> T5EncoderModel:
    """A T5 encoder of three layers, (B, 24) token ids to (B, 24, 128)."""
    from transformers import T5Config, T5EncoderModel

    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "d_model": TEXT_WIDTH,
        "d_kv": TEXT_WIDTH // 4,
        "d_ff": 2 * TEXT_WIDTH,
        "num_layers": 3,
        "num_heads": 4,
        "relative_attention_max_distance": 32,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return T5EncoderModel(T5Config(**{**config, **changes}))


def build_transformer(**changes: Any) -> FluxTransformer2DModel:
    """A FLUX transformer of 13 M weights: (B, 64, 16) packed latents, predicting noise - latents.

    Two double and eight single blocks of width 256: at 88 tokens 1.4 GFLOP a forward pass.
    """
    from diffusers import FluxTransformer2DModel

    config: dict[str, Any] = {
        "in_channels": 4 * LATENT_CHANNELS,
        "num_layers": 2,
        "num_single_layers": 8,
        "attention_head_dim": 32,
        "num_attention_heads": 8,
        "joint_attention_dim": TEXT_WIDTH,
        "pooled_projection_dim": TEXT_WIDTH,
        "axes_dims_rope": (4, 14, 14),
    }
    return FluxTransformer2DModel(**{**config, **changes})


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Euler steps of equal width in the share of noise, as the transformer was trained."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def build_pipeline(
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    t5_encoder: T5EncoderModel,
    t5_tokenizer: T5Tokenizer,
    transformer: FluxTransformer2DModel,
) -> FluxPipeline:
    """The stock pipeline around the components."""
    from diffusers import FluxPipeline

    # FluxPipeline adds the shift, which the UNet's autoencoder leaves out.
    autoencoder.register_to_config(shift_factor=0.0)
    return FluxPipeline(
        scheduler=build_scheduler(),
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )
