"""Trains the embedded text-to-video model; the stages, in order, and the files they leave.

adopt         text.pt, vae/, ...   the parts of an exported pipeline, to train the last two further
text          text.pt              the text encoder, from prompts alone
autoencoder   autoencoder.pt       encoder and decoder, on clips
latents       vae/                 the autoencoder, with the means and deviations of its latents
transformer   transformer.pt       the denoiser, on clips
decoder       decoder.pt           the decoder alone, longer
export, pack                       see `stages`
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor
from transformers import UMT5EncoderModel

from sdaccel.shapes.training import stages
from sdaccel.shapes.training.loop import Recipe
from sdaccel.shapes.training.stage import Job, Stage
from sdaccel.shapes.training.video_autoencoder import refine_decoder, train_autoencoder
from sdaccel.shapes.training.video_data import draw_clips
from sdaccel.shapes.training.video_denoiser import train_transformer
from sdaccel.shapes.training.video_latents import standardise
from sdaccel.shapes.training.video_text import encode, tokenize, train_text
from sdaccel.shapes.video.models import (
    DEFAULTS,
    build_autoencoder,
    build_pipeline,
    build_text_encoder,
    build_transformer,
)
from sdaccel.shapes.video.tokens import build_tokenizer

STANDARD_CLIPS = 128


class Parts:
    """The frozen parts around the transformer."""

    def __init__(self, job: Job) -> None:
        self.device = job.recipe.device
        self.tokenizer = build_tokenizer()
        text_encoder = build_text_encoder(self.tokenizer)
        self.text_encoder = stages.trained(job.folder, "text", "text", text_encoder)
        self.text_encoder.to(self.device)
        autoencoder: Any = AutoencoderKLWan.from_pretrained(job.folder / "vae")
        self.autoencoder = autoencoder.requires_grad_(False).eval().to(self.device)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Hidden states (B, 32, 128)."""
        ids, mask = tokenize(self.tokenizer, prompts)
        return encode(self.text_encoder, ids.to(self.device), mask.to(self.device))

    def pipeline(self, transformer: Any) -> Any:
        """The stock pipeline with a transformer."""
        return build_pipeline(self.autoencoder, self.text_encoder, self.tokenizer, transformer)


def adopt(job: Job) -> None:
    """Start from the parts of an exported video pipeline."""
    start, folder = stages.started_from(job, "video"), job.folder
    text_encoder = UMT5EncoderModel.from_pretrained(start / "text_encoder")
    stages.adopt(folder, "text", "text", text_encoder)
    if not (folder / "vae").exists():
        autoencoder: Any = AutoencoderKLWan.from_pretrained(start / "vae")
        autoencoder.float().save_pretrained(folder / "vae")
    transformer: Any = WanTransformer3DModel.from_pretrained(start / "transformer")
    stages.adopt(folder, "transformer", "transformer", transformer)


def latents(job: Job) -> None:
    """Leave the trained autoencoder with its latents' means and deviations."""
    trained = build_autoencoder()
    autoencoder = stages.trained(job.folder, "autoencoder", "autoencoder", trained)
    standardise(autoencoder, draw_clips(np.random.default_rng(job.recipe.seed), STANDARD_CLIPS))
    autoencoder.save_pretrained(job.folder / "vae")


def transformer(job: Job) -> None:
    """Train the transformer, measuring the averaged one's fidelity on the way."""
    parts = Parts(job)

    def evaluate(averaged: Any) -> dict[str, Any]:
        return stages.shared_fidelity(parts.pipeline(averaged), job.evaluate_count, DEFAULTS)

    train_transformer(
        job.folder,
        job.recipe,
        parts.autoencoder,
        parts.encode_text,
        evaluate,
        job.evaluate_minutes,
    )


def export(job: Job) -> None:
    """Write the averaged parts as a WanPipeline."""
    parts = Parts(job)
    if (job.folder / "decoder.pt").exists():
        refined = stages.trained(job.folder, "decoder", "autoencoder", parts.autoencoder)
        parts.autoencoder = refined
    trained = stages.trained(job.folder, "transformer", "transformer", build_transformer())
    stages.export(job, parts.pipeline(trained), DEFAULTS)


STAGES = {
    "adopt": Stage(adopt, alone=True, always=False),
    "text": Stage(
        lambda job: train_text(job.folder, job.recipe),
        Recipe(batch_size=64, decay_share=0.5, average=0.98, steps=4000),
        alone=True,
    ),
    "autoencoder": Stage(
        lambda job: train_autoencoder(job.folder, job.recipe),
        Recipe(
            batch_size=6,
            learning_rate=2e-3,
            weight_decay=1e-4,
            warm_up=20,
            decay_share=0.5,
            average=0.995,
            minutes=45,
            half=True,
            orthogonal=True,
        ),
    ),
    "latents": Stage(latents, alone=True),
    "transformer": Stage(
        transformer,
        Recipe(
            batch_size=16,
            learning_rate=2e-3,
            decay_share=0.5,
            minutes=600,
            half=True,
            orthogonal=True,
            compiled=True,
        ),
    ),
    "decoder": Stage(
        lambda job: refine_decoder(job.folder, job.recipe),
        Recipe(
            batch_size=4,
            weight_decay=1e-4,
            warm_up=20,
            decay_share=0.7,
            average=0.995,
            steps=2000,
            half=True,
            orthogonal=True,
        ),
    ),
    "export": Stage(export, alone=True),
    "pack": Stage(
        lambda job: stages.pack(job, ("text", "autoencoder", "transformer")),
        alone=True,
        always=False,
    ),
}
