"""A pipeline around the model of one family, so that it can be accelerated like any other."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, UNet1DModel

from .architectures import HOST, Place
from .families import Family, forward


class FamilyPipeline(DiffusionPipeline):
    """One model; a call is a generation of a single step, and returns all that the model does."""

    def __init__(self, denoiser: Any, vae: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser, vae=vae, scheduler=scheduler)

    def __call__(self, **inputs: Any) -> torch.Tensor:
        self.scheduler.set_timesteps(1)
        return forward(self.denoiser if self.vae is None else self.vae, inputs)


def pipeline_of(family: Family, seed: int = 0, place: Place = HOST) -> FamilyPipeline:
    """A pipeline of a family's model; a VAE stands beside a denoiser without anything to fuse."""
    model, scheduler = family.build(seed, place), FlowMatchEulerDiscreteScheduler()
    if family.part == "denoiser":
        return FamilyPipeline(model, None, scheduler)
    return FamilyPipeline(_plain_denoiser(), model, scheduler)


class EncoderPipeline(DiffusionPipeline):
    """A text encoder, with a small denoiser beside it, without which nothing is a pipeline."""

    def __init__(self, text_encoder: Any, denoiser: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(text_encoder=text_encoder, denoiser=denoiser, scheduler=scheduler)


def encoder_pipeline(encoder: Any) -> EncoderPipeline:
    """A pipeline of a text encoder."""
    return EncoderPipeline(encoder, _plain_denoiser(), FlowMatchEulerDiscreteScheduler())


def model_of(pipe: FamilyPipeline) -> Any:
    """The family's model."""
    return pipe.denoiser if pipe.vae is None else pipe.vae


def _plain_denoiser() -> Any:
    return UNet1DModel(
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock1DNoSkip",),
        up_block_types=("UpBlock1DNoSkip",),
    )
