"""The untrained components of the embedded video pipeline: stock classes, tiny configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKLWan,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )
    from transformers import T5Tokenizer, UMT5EncoderModel

TEXT_WIDTH = 128
LATENT_CHANNELS = 16
LATENT_FRAMES, LATENT_SIZE = 9, 12
PATCH = 2
SHIFT = 3.0
DEFAULTS: dict[str, Any] = {
    "height": 96,
    "width": 96,
    "num_frames": 17,
    "num_inference_steps": 25,
    "guidance_scale": 4.0,
    "max_sequence_length": 32,
}


def build_autoencoder(**changes: Any) -> AutoencoderKLWan:
    """A 2-fold (time) and 8-fold (space) autoencoder: (B, 3, 17, 96, 96) to (B, 16, 9, 12, 12).

    Patches of 4 x 4 pixels before the first convolution, as Wan 2.2 has patches of 2 x 2, make it
    cheap enough to train on a CPU: no 3-D convolution sees more than 24 positions a side. With
    16-fold space and 4-fold time, 25.8 dB after 24 minutes of a core, small things were blobs: the
    checker took 4% of 48 decoded clips for what they show; of this one, after 30 minutes and with a
    loss that looks at edges, 72% of 32 (29.8 dB held out), and after 57, the last 15 of them with
    small stars and crosses in half of its batches, 92% of 64 (32.0 dB).
    """
    from diffusers import AutoencoderKLWan

    config: dict[str, Any] = {
        "base_dim": 64,
        "decoder_base_dim": 96,
        "z_dim": LATENT_CHANNELS,
        "dim_mult": [1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [True],
        "is_residual": True,
        "patch_size": 4,
        "in_channels": 48,
        "out_channels": 48,
        "scale_factor_temporal": 2,
        "scale_factor_spatial": 8,
        "latents_mean": [0.0] * LATENT_CHANNELS,
        "latents_std": [1.0] * LATENT_CHANNELS,
    }
    return AutoencoderKLWan(**{**config, **changes})


def build_text_encoder(tokenizer: T5Tokenizer, **changes: Any) -> UMT5EncoderModel:
    """A UMT5 encoder of three layers, (B, 32) token ids to (B, 32, 128)."""
    from transformers import UMT5Config, UMT5EncoderModel

    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "d_model": TEXT_WIDTH,
        "d_kv": 32,
        "d_ff": 3 * TEXT_WIDTH,
        "num_layers": 3,
        "num_heads": 4,
        "dropout_rate": 0.0,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return UMT5EncoderModel(UMT5Config(**{**config, **changes}))


def build_transformer(**changes: Any) -> WanTransformer3DModel:
    """A Wan transformer of 7 M weights over 324 tokens, predicting noise minus latents."""
    from diffusers import WanTransformer3DModel

    config: dict[str, Any] = {
        "patch_size": (1, PATCH, PATCH),
        "num_attention_heads": 4,
        "attention_head_dim": 64,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "text_dim": TEXT_WIDTH,
        "ffn_dim": 1024,
        "num_layers": 6,
        "rope_max_seq_len": 64,
    }
    return WanTransformer3DModel(**{**config, **changes})


def build_scheduler() -> UniPCMultistepScheduler:
    """UniPC over the straight flow from noise to latents, as Wan is sampled."""
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
    )


def build_pipeline(
    autoencoder: AutoencoderKLWan,
    text_encoder: UMT5EncoderModel,
    tokenizer: T5Tokenizer,
    transformer: WanTransformer3DModel,
) -> WanPipeline:
    """The stock pipeline around the components."""
    from diffusers import WanPipeline

    return WanPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=build_scheduler(),
    )
