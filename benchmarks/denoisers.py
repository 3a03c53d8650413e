"""The denoisers of published models, as workloads: their real sizes, and their users' resolutions.

Sizes are those of each model's published config.json; what is not named here is the default of the
class in diffusers. A guided model gets the two samples that its pipeline puts into one batch, one
that is distilled or guided by two calls gets one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sdaccel.target import dtype_of

from .architectures import Place
from .families import Draw, Family, Inputs, Size, families, forward
from .workloads import Call, Clip, Workload

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Denoiser:
    """A published model: of a tiny `family`'s class and inputs, with its own `config` and `size`.

    `quick` changes the config: as wide and with every kind of block, but few of them, and `less` is
    the smaller input that goes with it. A picture or `clip` takes `steps` of so many `calls` each.
    What is `absent` of the family's inputs this model does not take.
    """

    family: str
    summary: str
    config: Mapping[str, Any]
    size: Size
    quick: Mapping[str, Any]
    less: Mapping[str, int]
    steps: int
    calls: int = 1
    clip: Clip | None = None
    absent: tuple[str, ...] = ()

    def chosen(self, quick: bool) -> tuple[Family, Size]:
        """The family at the published size, or scaled down, and its input."""
        (family,) = families([self.family])
        config = {**self.config, **self.quick} if quick else self.config
        size = replace(self.size, **self.less) if quick else self.size
        return replace(family, config=config, inputs=self._inputs(family)), size

    def _inputs(self, family: Family) -> Inputs:
        def inputs(draw: Draw, size: Size) -> dict[str, Any]:
            found = family.inputs(draw, size)
            return {name: each for name, each in found.items() if name not in self.absent}

        return inputs


_SDXL: Mapping[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_SD3: Mapping[str, Any] = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
_SD35_LARGE: Mapping[str, Any] = {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
    "pos_embed_max_size": 192,
}
_WAN_SMALL: Mapping[str, Any] = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
_COG_5B: Mapping[str, Any] = {
    "num_attention_heads": 48,
    "num_layers": 42,
    "use_rotary_positional_embeddings": True,
}
_FEW = {"num_layers": 2}
_SINGLES = {"num_layers": 1, "num_single_layers": 2}
_SMALL = {"height": 48, "width": 48}
_SMALLER = {"height": 32, "width": 32, "tokens": 128}
"""For models whose few blocks are wide."""
_CLIP = {"height": 16, "width": 24, "frames": 3}
_COG_QUICK: Mapping[str, Any] = {"sample_height": 16, "sample_width": 24, "sample_frames": 9}
"""A quick forward is at most 0.35 TFLOP: a second or two of two processor cores."""

_T5_AND_CLIP = {"text": 4096, "pooled": 768, "channels": 16}
DENOISERS: Mapping[str, Denoiser] = {
    "sdxl-unet": Denoiser(
        "SDXL",
        "Stable Diffusion XL's UNet, 1024x1024",
        _SDXL,
        Size(128, 128, 1, 77, text=2048, pooled=1280),
        {"transformer_layers_per_block": (1, 1, 2), "layers_per_block": 1},
        {"height": 32, "width": 32},
        steps=30,
    ),
    "sd3-medium": Denoiser(
        "SD 3",
        "Stable Diffusion 3 medium, 1024x1024",
        _SD3,
        Size(128, 128, 1, 333, text=4096, pooled=2048, channels=16),
        _FEW,
        _SMALL,
        steps=28,
    ),
    "sd3.5-large": Denoiser(
        "SD 3",
        "Stable Diffusion 3.5 large, 1024x1024",
        _SD35_LARGE,
        Size(128, 128, 1, 333, text=4096, pooled=2048, channels=16),
        _FEW,
        _SMALLER,
        steps=28,
    ),
    "flux-dev": Denoiser(
        "FLUX.1",
        "FLUX.1 dev, 1024x1024",
        {"guidance_embeds": True},
        Size(128, 128, 1, 512, 1, **_T5_AND_CLIP),
        _SINGLES,
        _SMALLER,
        steps=28,
    ),
    "flux-schnell": Denoiser(
        "FLUX.1",
        "FLUX.1 schnell, 1024x1024",
        {},
        Size(128, 128, 1, 256, 1, **_T5_AND_CLIP),
        _SINGLES,
        _SMALLER,
        steps=4,
        absent=("guidance",),
    ),
    "pixart-sigma": Denoiser(
        "PixArt",
        "PixArt-Sigma, 1024x1024",
        {"caption_channels": 4096, "interpolation_scale": 2, "use_additional_conditions": False},
        Size(128, 128, 1, 300, text=4096),
        {"num_layers": 4},
        _SMALL,
        steps=20,
    ),
    "sana-1.6b": Denoiser(
        "Sana",
        "Sana 1.6B, 1024x1024",
        {},
        Size(32, 32, 1, 300, text=2304, channels=32),
        _FEW,
        {"height": 16, "width": 16, "tokens": 128},
        steps=20,
    ),
    "qwen-image": Denoiser(
        "Qwen-Image",
        "Qwen-Image, 1328x1328",
        {},
        Size(166, 166, 1, 128, 1, text=3584, channels=16),
        _FEW,
        _SMALLER,
        steps=50,
        calls=2,
    ),
    "z-image": Denoiser(
        "Z-Image",
        "Z-Image, 1024x1024",
        {},
        Size(128, 128, 1, 128, text=2560, channels=16),
        {"n_layers": 2, "n_refiner_layers": 1},
        {"height": 16, "width": 16, "tokens": 32},
        steps=50,
    ),
    "animatediff": Denoiser(
        "AnimateDiff",
        "Stable Diffusion 1.5's UNet with AnimateDiff's motion modules, 16 frames of 512x512",
        {"cross_attention_dim": 768},
        Size(64, 64, 16, 77, text=768),
        {"layers_per_block": 1},
        {"height": 16, "width": 16, "frames": 2},
        steps=25,
        clip=Clip(16, 8),
    ),
    "cogvideox-2b": Denoiser(
        "CogVideoX",
        "CogVideoX 2B, 49 frames of 720x480",
        {},
        Size(60, 90, 13, 226, text=4096, channels=16),
        # its table of positions belongs to the published size
        {"num_layers": 2, **_COG_QUICK},
        _CLIP,
        steps=50,
        clip=Clip(49, 8),
        absent=("image_rotary_emb",),
    ),
    "cogvideox-5b": Denoiser(
        "CogVideoX",
        "CogVideoX 5B, 49 frames of 720x480",
        _COG_5B,
        Size(60, 90, 13, 226, text=4096, channels=16, head=64),
        {"num_layers": 1},
        _CLIP,
        steps=50,
        clip=Clip(49, 8),
    ),
    "ltx-video": Denoiser(
        "LTX",
        "LTX-Video 2B, 121 frames of 704x480",
        {},
        # one token a latent of 32x32x8 pixels: the family counts 2x2 of its own as one
        Size(30, 44, 16, 128, text=4096, channels=32),
        {"num_layers": 3},
        _CLIP,
        steps=50,
        clip=Clip(121, 24),
    ),
    "wan2.1-1.3b": Denoiser(
        "Wan 2.1",
        "Wan 2.1 1.3B, 81 frames of 832x480",
        _WAN_SMALL,
        Size(60, 104, 21, 512, 1, text=4096, channels=16),
        {"num_layers": 3},
        _CLIP,
        steps=50,
        calls=2,
        clip=Clip(81, 16),
    ),
    "wan2.1-14b": Denoiser(
        "Wan 2.1",
        "Wan 2.1 14B, 81 frames of 832x480",
        {},
        Size(60, 104, 21, 512, 1, text=4096, channels=16),
        {"num_layers": 1},
        _CLIP,
        steps=50,
        calls=2,
        clip=Clip(81, 16),
    ),
    "hunyuan-video": Denoiser(
        "HunyuanVideo",
        "HunyuanVideo, 61 frames of 960x544",
        {},
        Size(68, 120, 16, 256, 1, **_T5_AND_CLIP),
        {**_SINGLES, "num_refiner_layers": 1},
        {"height": 16, "width": 16, "frames": 3, "tokens": 64},
        steps=30,
        clip=Clip(61, 24),
    ),
}


def workload(name: str, quick: bool) -> Workload:
    """One forward of the denoiser `name` of `DENOISERS`, with random weights, in fp32."""
    denoiser = DENOISERS[name]
    family, size = denoiser.chosen(quick)
    return Workload(
        name=name,
        summary=f"{denoiser.summary}, one forward",
        unit="forward",
        make=lambda place: _pipeline(family, place),
        prepare=lambda pipe: one_forward(pipe, family, size),
        networks=("denoiser",),
        quick=quick,
        calls_per_picture=denoiser.steps * denoiser.calls,
        settings=_settings(denoiser, size, quick),
    )


def _settings(denoiser: Denoiser, size: Size, quick: bool) -> dict[str, Any]:
    """The input; when quick what was scaled down, else how long the clip is."""
    if quick:
        return {"input": vars(size), "config": dict(denoiser.quick)}
    return {"input": vars(size), **(vars(denoiser.clip) if denoiser.clip else {})}


def one_forward(pipe: Any, family: Family, size: Size) -> Call:
    """A forward of the pipe's denoiser with the family's inputs, all it returns as fp32 (N,).

    The inputs are numbers that bfloat16 has, in every dtype: a rounded timestep would be another.
    """
    import torch

    model = pipe.denoiser
    inputs = _moved(family.draw(size, 0, torch.bfloat16), model)

    def call() -> torch.Tensor:
        return forward(model, inputs).float()

    return call


def _moved(inputs: Any, model: Any) -> Any:
    """Every tensor on the model's device, those in bfloat16 in what it computes in."""
    import torch
    from torch.utils import _pytree

    dtype = dtype_of(model)

    def moved(each: Any) -> Any:
        if not isinstance(each, torch.Tensor):
            return each
        return each.to(model.device, dtype if each.dtype == torch.bfloat16 else each.dtype)

    return _pytree.tree_map(moved, inputs)


def _pipeline(family: Family, place: Place) -> Any:
    from .family_pipeline import pipeline_of

    return pipeline_of(family, place=place)
