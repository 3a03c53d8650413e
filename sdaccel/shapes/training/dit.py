"""Trains the embedded diffusion transformer by flow matching (Lipman et al. 2023).

Latents are mixed with a share t of noise, x_t = (1 - t) x + t noise, and the transformer predicts
noise - x. The shares are logit-normal (Esser et al. 2024), leaning towards noise, where what stands
where is decided.

adopt         text.pt, vae/            CLIP and the autoencoder, of an exported UNet pipeline
t5            t5.pt                    the T5 encoder, from prompts alone
encode        latents/                 the training set
transformer   transformer.pt           the denoiser
export, pack                           see `stages`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdaccel.shapes.dit import DEFAULTS, build_pipeline, build_t5_encoder, build_transformer
from sdaccel.shapes.models import LATENT_SIZE, build_text_encoder
from sdaccel.shapes.tokens import build_t5_tokenizer, build_tokenizer
from sdaccel.shapes.training import stages
from sdaccel.shapes.training.denoiser import LayoutHead, Task, stratified
from sdaccel.shapes.training.loop import Recipe
from sdaccel.shapes.training.stage import Job, Stage
from sdaccel.shapes.training.text import token_ids, train_text
from sdaccel.shapes.training.unet import adopt_clip

PATCH = 2
SIDE = LATENT_SIZE // PATCH
LOGIT_MEAN, LOGIT_DEVIATION = 0.4, 1.2


def adopt(job: Job) -> None:
    """Start from the text encoder and the autoencoder of an exported UNet pipeline."""
    start = stages.started_from(job)
    adopt_clip(job.folder, start)
    stages.adopt_autoencoder(job.folder, start)


def t5(job: Job) -> None:
    """Train the T5 encoder."""
    train_text(job.folder, job.recipe, "t5", build_t5_tokenizer, build_t5_encoder)


class Parts:
    """The frozen parts around the transformer."""

    def __init__(self, job: Job) -> None:
        self.device = job.recipe.device
        self.tokenizer, self.t5_tokenizer = build_tokenizer(), build_t5_tokenizer()
        clip, t5 = build_text_encoder(self.tokenizer), build_t5_encoder(self.t5_tokenizer)
        self.clip = stages.trained(job.folder, "text", "text", clip).to(self.device)
        self.t5 = stages.trained(job.folder, "t5", "text", t5).to(self.device)
        self.autoencoder = stages.autoencoder_of(job.folder).to(self.device)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """T5's hidden states (B, 24, 128) and CLIP's pooled ones (B, 128)."""
        hidden_states = self.t5(token_ids(self.t5_tokenizer, prompts).to(self.device))[0]
        pooled = self.clip(token_ids(self.tokenizer, prompts).to(self.device)).pooler_output
        return hidden_states, pooled

    def pipeline(self, transformer: Any) -> Any:
        """The stock pipeline with a transformer."""
        return build_pipeline(
            self.autoencoder, self.clip, self.tokenizer, self.t5, self.t5_tokenizer, transformer
        )


def transformer(job: Job) -> None:
    """Train the transformer."""
    parts = Parts(job)
    torch.manual_seed(job.recipe.seed)
    stages.train(job, transformer_task(parts.encode_text), parts.pipeline, DEFAULTS)


def export(job: Job) -> None:
    """Write the averaged parts as a FluxPipeline."""
    trained = stages.trained(job.folder, "transformer", "transformer", build_transformer())
    stages.export(job, Parts(job).pipeline(trained), DEFAULTS)


def transformer_task(
    encode_text: Callable[[list[str]], tuple[Tensor, Tensor]], **changes: Any
) -> Task:
    """The task of a new transformer, whose layout head reads a block in its middle.

    `encode_text` maps prompts to T5's hidden states and CLIP's pooled ones.
    """
    transformer = build_transformer(**changes)
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    def predict(module: nn.Module, noisy: Tensor, shares: Tensor, prompts: list[str]) -> Tensor:
        hidden_states, pooled = encode_text(prompts)
        predicted = module(
            hidden_states=pack(noisy),
            encoder_hidden_states=hidden_states,
            pooled_projections=pooled,
            timestep=shares,
            img_ids=positions(noisy.device),
            txt_ids=torch.zeros(hidden_states.shape[1], 3, device=noisy.device),
        ).sample
        return unpack(predicted)

    return Task(
        name="transformer",
        denoiser=transformer,
        head=LayoutHead(transformer.inner_dim, PATCH),
        tapped=blocks[len(blocks) // 2],
        features=lambda returned: returned[1].transpose(1, 2).unflatten(2, (SIDE, SIDE)),
        diffuse=mix,
        predict=predict,
        layout_weight=0.5,
    )


def mix(latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, their shares of noise, stratified over the batch, and noise - latents."""
    even = stratified(len(latents), generator).clamp(1e-4, 1 - 1e-4)
    shares = torch.sigmoid(torch.special.ndtri(even) * LOGIT_DEVIATION + LOGIT_MEAN)
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    return torch.lerp(latents, noise, shares[:, None, None, None]), shares, noise - latents


def pack(latents: Tensor) -> Tensor:
    """(B, 4, 16, 16) to (B, 64, 16), as the pipeline packs: a token is a patch of 2 x 2."""
    return functional.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor) -> Tensor:
    """The inverse of `pack`."""
    return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (SIDE, SIDE)), PATCH)


def positions(device: torch.device) -> Tensor:
    """Row and column of each token, (64, 3), as the pipeline numbers them."""
    axis = torch.arange(SIDE, device=device, dtype=torch.float32)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)


STAGES = {
    "adopt": Stage(adopt, alone=True),
    "t5": Stage(t5, Recipe(batch_size=64, decay_share=0.5, average=0.98, steps=1200), alone=True),
    "encode": Stage(stages.encode),
    "transformer": Stage(
        transformer,
        Recipe(
            batch_size=32,
            learning_rate=3e-3,
            half=True,
            orthogonal=True,
            minutes=240,
        ),
    ),
    "export": Stage(export, alone=True),
    "pack": Stage(
        lambda job: stages.pack(job, ("text", "t5", "transformer")), alone=True, always=False
    ),
}
