"""Real architectures from their published sizes, with random weights made in seconds.

Time does not depend on the values, as long as they stay finite: every weight is drawn as wide as
torch's own initialisation draws it, and norms are near the identity, not at it, so that a pass
that forgets a scale or a bias changes the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Configuration = Mapping[str, Any]

SD15_UNET: Configuration = {
    "class": "UNet2DConditionModel",
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
"""Stable Diffusion 1.5, unet/config.json: 859.5 M weights; the rest are the class's defaults."""

SD15_UNET_QUICK: Configuration = {
    **SD15_UNET,
    "sample_size": 32,
    "block_out_channels": (64, 128, 256, 256),
    "layers_per_block": 1,
}
"""The same kinds of blocks, a fifth as wide and half as deep."""

SD15_VAE: Configuration = {
    "class": "AutoencoderKL",
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
"""Stable Diffusion 1.5, vae/config.json: 83.7 M weights."""

TINY_UNET: Configuration = {
    "class": "UNet2DConditionModel",
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "norm_num_groups": 8,
}
TINY_VAE: Configuration = {
    "class": "AutoencoderKL",
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}
"""Two models that run in milliseconds, to try the harness itself."""

_POOL = 1_048_583
"""Distinct random values: a prime, so that no two rows of a matrix come out alike."""


@dataclass(frozen=True)
class Place:
    """Where weights are made, and in which dtype; None: the model's own, fp32."""

    device: str = "cpu"
    dtype: torch.dtype | None = None

    def dtype_of(self, model: torch.nn.Module, name: str) -> torch.dtype | None:
        """What a weight is made in: as `from_pretrained` casts, some modules stay in fp32."""
        kept = getattr(model, "_keep_in_fp32_modules", None) or ()
        return None if any(part in kept for part in name.split(".")) else self.dtype


HOST = Place()


def build(
    configuration: Configuration, seed: int = 0, gain: float = 1.0, place: Place = HOST
) -> torch.nn.Module:
    """The model of a configuration in evaluation mode, made at a place, the same for a seed."""
    import diffusers

    settings = {key: value for key, value in configuration.items() if key != "class"}
    return made(lambda: getattr(diffusers, configuration["class"])(**settings), seed, gain, place)


def made(
    empty: Callable[[], torch.nn.Module], seed: int = 0, gain: float = 1.0, place: Place = HOST
) -> torch.nn.Module:
    """A model of which `empty` lays out the modules, with weights that are drawn at the place.

    No weight is ever elsewhere, and one at a time is in fp32 before it is in the place's dtype.
    """
    import torch
    from accelerate import init_empty_weights

    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        model = empty()
    draw_weights(model, seed, gain, place)
    return model.to(place.device).eval()


def stable_diffusion(unet: Configuration, vae: Configuration, place: Place = HOST) -> Any:
    """A StableDiffusionPipeline without text encoder: it draws from embeddings of a prompt."""
    import diffusers

    pipe = diffusers.StableDiffusionPipeline(
        unet=build(unet, seed=0, place=place),
        vae=build(vae, seed=1, place=place),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_weights(model: torch.nn.Module, seed: int, gain: float = 1.0, place: Place = HOST) -> None:
    """Give a model every parameter anew: matrices uniform within gain/sqrt(fan in) of 0, norms near
    identity. What two modules share they share again.
    """
    import torch

    pool = torch.empty(_POOL).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    pool, start = pool.to(place.device), 0
    shared: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for path, module in model.named_modules():
        for name, before in list(module.named_parameters(recurse=False)):
            if before not in shared:
                full = f"{path}.{name}"
                values = _drawn(before.shape, full, gain, pool, start)
                values = values.to(place.dtype_of(model, full) or before.dtype)
                shared[before] = torch.nn.Parameter(values, before.requires_grad)
                start = (start + before.numel()) % _POOL
            module.register_parameter(name, shared[before])


def _drawn(
    shape: torch.Size, name: str, gain: float, pool: torch.Tensor, start: int
) -> torch.Tensor:
    """A parameter in fp32 from the values of the pool, on its device."""
    import torch

    drawn = torch.empty(shape, device=pool.device)
    for piece, values in _slices(drawn.view(-1), pool, start):
        piece.copy_(values)
    if drawn.dim() > 1 and drawn.numel() > drawn.shape[0]:
        return drawn.mul_(gain * (drawn.numel() / drawn.shape[0]) ** -0.5)
    is_scale = name.endswith(("weight", "gamma"))
    return drawn.mul_(0.1).add_(1.0 if is_scale else 0.0)


def _slices(
    flat: torch.Tensor, pool: torch.Tensor, start: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The pieces of `flat` beside as many values of the pool, from `start` on, round and round."""
    while flat.numel():
        values = pool[start : start + flat.numel()]
        yield flat[: values.numel()], values
        flat, start = flat[values.numel() :], 0
