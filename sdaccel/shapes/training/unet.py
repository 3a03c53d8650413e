"""Trains the embedded UNet to predict v, and what it needs.

adopt         text.pt, vae/, ...       to go on from an exported pipeline, the autoencoder too
text          text.pt                  the text encoder, from prompts alone
autoencoder   autoencoder.pt           encoder and decoder
encode        vae/, latents/           the training set
unet          unet.pt                  the denoiser
decoder       decoder.pt               the decoder again, on slightly wrong latents
export, pack                           see `stages`
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from sdaccel.shapes.models import (
    DEFAULTS,
    build_pipeline,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from sdaccel.shapes.tokens import build_tokenizer
from sdaccel.shapes.training import stages
from sdaccel.shapes.training.autoencoder import refine_decoder, train_autoencoder
from sdaccel.shapes.training.denoiser import LayoutHead, Task, stratified
from sdaccel.shapes.training.loop import Recipe
from sdaccel.shapes.training.stage import Job, Stage
from sdaccel.shapes.training.text import token_ids, train_text


def adopt(job: Job) -> None:
    """Start from the parts of an exported UNet pipeline."""
    start = stages.started_from(job)
    adopt_clip(job.folder, start)
    stages.adopt_autoencoder(job.folder, start)
    vae = AutoencoderKL.from_pretrained(start / "vae")
    stages.adopt(job.folder, "autoencoder", "autoencoder", vae)
    stages.adopt(job.folder, "unet", "unet", UNet2DConditionModel.from_pretrained(start / "unet"))


def adopt_clip(folder: Path, start: Path) -> None:
    """Take the CLIP text encoder of an exported pipeline."""
    stages.adopt(folder, "text", "text", CLIPTextModel.from_pretrained(start / "text_encoder"))


def text(job: Job) -> None:
    """Train the CLIP text encoder."""
    train_text(job.folder, job.recipe, "text", build_tokenizer, build_text_encoder)


class Parts:
    """The frozen parts around the UNet."""

    def __init__(self, job: Job) -> None:
        self.device = job.recipe.device
        self.tokenizer = build_tokenizer()
        clip = build_text_encoder(self.tokenizer)
        self.clip = stages.trained(job.folder, "text", "text", clip).to(self.device)
        self.autoencoder = stages.autoencoder_of(job.folder).to(self.device)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        """CLIP's hidden states, (B, 24, 128)."""
        tokens = token_ids(self.tokenizer, prompts).to(self.device)
        hidden_states: Tensor = self.clip(tokens).last_hidden_state
        return hidden_states

    def pipeline(self, unet: Any) -> Any:
        """The stock pipeline with a UNet."""
        return build_pipeline(self.autoencoder, self.clip, self.tokenizer, unet)


def unet(job: Job) -> None:
    """Train the UNet."""
    parts = Parts(job)
    torch.manual_seed(job.recipe.seed)
    stages.train(job, unet_task(parts.encode_text), parts.pipeline, DEFAULTS)


def export(job: Job) -> None:
    """Write the averaged parts as a StableDiffusionPipeline."""
    trained = stages.trained(job.folder, "unet", "unet", build_unet())
    stages.export(job, Parts(job).pipeline(trained), DEFAULTS)


def unet_task(encode_text: Callable[[list[str]], Tensor], **changes: Any) -> Task:
    """The task of a new UNet, whose layout head reads its second-last up block."""
    unet = build_unet(**changes)
    alphas = build_scheduler().alphas_cumprod

    def predict(unet: nn.Module, noisy: Tensor, timesteps: Tensor, prompts: list[str]) -> Tensor:
        predicted: Tensor = unet(noisy, timesteps, encode_text(prompts)).sample
        return predicted

    return Task(
        name="unet",
        denoiser=unet,
        head=LayoutHead(unet.config.block_out_channels[-2]),
        tapped=unet.up_blocks[-2],
        features=lambda returned: returned,
        diffuse=lambda latents, generator: diffuse(latents, alphas, generator),
        predict=predict,
    )


def diffuse(
    latents: Tensor, alphas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, timesteps stratified over the batch, and v = sqrt(a) noise - sqrt(1-a) x."""
    alphas = alphas.to(latents.device)
    timesteps = (stratified(len(latents), generator) * len(alphas)).long()
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    signal = alphas[timesteps].sqrt()[:, None, None, None]
    strength = (1 - alphas[timesteps]).sqrt()[:, None, None, None]
    noisy = (signal * latents + strength * noise).contiguous(memory_format=torch.channels_last)
    return noisy, timesteps, signal * noise - strength * latents


STAGES = {
    "adopt": Stage(adopt, alone=True, always=False),
    "text": Stage(
        text, Recipe(batch_size=64, decay_share=0.5, average=0.98, steps=900), alone=True
    ),
    "autoencoder": Stage(
        lambda job: train_autoencoder(job.folder, job.recipe, job.pictures),
        Recipe(
            batch_size=8,
            learning_rate=2e-3,
            weight_decay=1e-4,
            warm_up=40,
            decay_share=0.6,
            average=0.995,
            half=True,
            orthogonal=True,
            minutes=40,
        ),
    ),
    "encode": Stage(stages.encode),
    "unet": Stage(unet, Recipe(batch_size=16, average=0.998, half=True, minutes=100)),
    "decoder": Stage(
        lambda job: refine_decoder(job.folder, job.recipe, job.pictures),
        Recipe(batch_size=8, weight_decay=1e-4, decay_share=0.7, average=0.995, minutes=5),
    ),
    "export": Stage(export, alone=True),
    "pack": Stage(lambda job: stages.pack(job, ("text", "unet")), alone=True, always=False),
}
