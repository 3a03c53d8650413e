"""The decoders of published models, as workloads: their real sizes, and their users' resolutions.

Sizes are those of each model's published config.json; what is not named here is the default of the
class in diffusers. The quick ones are whole, and decode less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdaccel.target import dtype_of

from .architectures import Place
from .families import Draw, Family, Size
from .workloads import Call, Clip, Workload, noise

if TYPE_CHECKING:
    import torch


def _no_inputs(draw: Draw, size: Size) -> dict[str, Any]:
    """Of a family's forward, which is never called: an autoencoder is entered at `decode`."""
    return {}


@dataclass(frozen=True)
class Autoencoder:
    """A published autoencoder: its class, and what in its config differs from the defaults.

    Then what it decodes as (channels, [frames,] height, width), what it decodes when quick, and how
    long the clip is.
    """

    model: str
    config: Mapping[str, Any]
    summary: str
    latents: tuple[int, ...]
    quick: tuple[int, ...]
    clip: Clip | None = None

    @property
    def family(self) -> Family:
        """The same as a family's model."""
        return Family(self.model, self.model, self.config, _no_inputs, "vae")


_KL_CONFIG: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 1024,
}
_KL_16_CONFIG: Mapping[str, Any] = {
    **_KL_CONFIG,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_DC_STAGES: Mapping[str, Any] = {
    "block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
}
_DC_CONFIG: Mapping[str, Any] = {
    "latent_channels": 32,
    **{
        f"{half}_{key}": each for half in ("encoder", "decoder") for key, each in _DC_STAGES.items()
    },
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
}
_COG_CONFIG: Mapping[str, Any] = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
}

_Kind = tuple[str, Mapping[str, Any]]
_KL: _Kind = ("AutoencoderKL", _KL_CONFIG)
_KL_16: _Kind = ("AutoencoderKL", _KL_16_CONFIG)
_DC: _Kind = ("AutoencoderDC", _DC_CONFIG)
_QWEN: _Kind = ("AutoencoderKLQwenImage", {})
_COG: _Kind = ("AutoencoderKLCogVideoX", _COG_CONFIG)
_LTX: _Kind = ("AutoencoderKLLTXVideo", {})
_WAN: _Kind = ("AutoencoderKLWan", {})
_HUNYUAN: _Kind = ("AutoencoderKLHunyuanVideo", {})

_Sizes = tuple[int, ...]
_PICTURES: Mapping[str, tuple[_Kind, str, _Sizes, _Sizes]] = {
    "sdxl-vae": (_KL, "SDXL's and PixArt-Sigma's VAE, 1024x1024", (4, 128, 128), (4, 16, 16)),
    "sd3-vae": (_KL_16, "SD3's and SD3.5's VAE, 1024x1024", (16, 128, 128), (16, 16, 16)),
    "flux-vae": (_KL_16, "FLUX.1's and Z-Image's VAE, 1024x1024", (16, 128, 128), (16, 16, 16)),
    "sana-vae": (_DC, "Sana's deep-compression autoencoder, 1024x1024", (32, 32, 32), (32, 4, 4)),
    "qwen-image-vae": (_QWEN, "Qwen-Image's VAE, 1328x1328", (16, 1, 166, 166), (16, 1, 16, 16)),
}
"""Class and config, a sentence, the latents decoded, and those decoded when quick."""
_CLIPS: Mapping[str, tuple[_Kind, str, tuple[int, int], int, _Sizes, _Sizes]] = {
    "cogvideox-vae": (_COG, "CogVideoX", (49, 8), 8, (16, 13, 60, 90), (16, 2, 4, 6)),
    "ltx-vae": (_LTX, "LTX-Video", (121, 24), 32, (128, 16, 15, 22), (128, 2, 2, 3)),
    "wan2.1-vae": (_WAN, "Wan2.1", (81, 16), 8, (16, 21, 60, 104), (16, 2, 4, 6)),
    "hunyuan-vae": (_HUNYUAN, "HunyuanVideo", (61, 24), 8, (16, 16, 68, 120), (16, 2, 4, 6)),
}
"""Class and config, whose, frames and how many a second, pixels a latent, latents, quick ones."""


def _of_clips(
    kind: _Kind, whose: str, length: tuple[int, int], stride: int, latents: _Sizes, quick: _Sizes
) -> Autoencoder:
    *_, height, width = latents
    summary = f"{whose}'s VAE, {length[0]} frames of {width * stride}x{height * stride}"
    return Autoencoder(*kind, summary, latents, quick, Clip(*length))


AUTOENCODERS: Mapping[str, Autoencoder] = {
    **{
        name: Autoencoder(*kind, summary, latents, quick)
        for name, (kind, summary, latents, quick) in _PICTURES.items()
    },
    **{name: _of_clips(*row) for name, row in _CLIPS.items()},
}


def workload(name: str, quick: bool) -> Workload:
    """One decoding by the autoencoder `name` of `AUTOENCODERS`, with random weights, in fp32."""
    chosen = AUTOENCODERS[name]
    latents = chosen.quick if quick else chosen.latents
    length = vars(chosen.clip) if chosen.clip and not quick else {}
    return Workload(
        name=name,
        summary=f"{chosen.summary}, one decoded",
        unit="decode",
        make=lambda place: _pipeline(chosen.family, place),
        prepare=lambda pipe: one_decoding(pipe, latents),
        networks=("vae",),
        quick=quick,
        settings={"latents": [1, *latents], **length},
    )


def one_decoding(pipe: Any, shape: tuple[int, ...]) -> Call:
    """A picture or clip decoded from (1, *shape) latents, as fp32.

    The latents are numbers that bfloat16 has, the same in every dtype.
    """
    import torch

    latents = noise(0, 1, *shape).to(torch.bfloat16).to(pipe.vae.device, dtype_of(pipe.vae))

    def call() -> torch.Tensor:
        with torch.no_grad():
            drawn: torch.Tensor = pipe.vae.decode(latents, return_dict=False)[0].float()
        return drawn

    return call


def _pipeline(family: Family, place: Place) -> Any:
    from .family_pipeline import pipeline_of

    return pipeline_of(family, place=place)
