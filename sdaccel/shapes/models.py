"""The untrained components of the embedded UNet pipeline: stock classes, tiny configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdaccel.shapes.tokens import MAX_TOKENS

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

DEFAULTS: dict[str, Any] = {"num_inference_steps": 25, "guidance_scale": 3.0}
TEXT_WIDTH = 128
LATENT_CHANNELS = 4
LATENT_SIZE = 16


def build_autoencoder(**changes: Any) -> AutoencoderKL:
    """A 4-fold autoencoder without attention: (B, 3, 64, 64) in -1..1 to (B, 4, 16, 16)."""
    from diffusers import AutoencoderKL

    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (16, 32, 48),
        "layers_per_block": 1,
        "latent_channels": LATENT_CHANNELS,
        "norm_num_groups": 8,
        "sample_size": 64,
        "mid_block_add_attention": False,
    }
    return AutoencoderKL(**{**config, **changes})


def build_text_encoder(tokenizer: CLIPTokenizer, **changes: Any) -> CLIPTextModel:
    """A CLIP text encoder of three layers, (B, 24) token ids to (B, 24, 128)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "projection_dim": TEXT_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextModel(CLIPTextConfig(**{**config, **changes}))


def build_unet(**changes: Any) -> UNet2DConditionModel:
    """A UNet of 7 M weights with cross-attention at 8 and 4 latents a side, predicting v."""
    from diffusers import UNet2DConditionModel

    config: dict[str, Any] = {
        "sample_size": LATENT_SIZE,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (48, 96, 160),
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "attention_head_dim": (2, 3, 5),
        "cross_attention_dim": TEXT_WIDTH,
    }
    return UNet2DConditionModel(**{**config, **changes})


def build_scheduler() -> DDIMScheduler:
    """DDIM for v-prediction with zero terminal SNR (Lin et al. 2024), so that colours come out."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def build_pipeline(
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """The stock pipeline around the components, with no safety checker."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
