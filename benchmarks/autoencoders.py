"""The decoders of published models, as workloads: their real sizes, and their users' resolutions.

Sizes are those of each model's published config.json; what is not named here is the default of the
class in diffusers. The quick ones are whole, and decode less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """A published autoencoder: its class, what it decodes as (channels, [frames,] height, width).

    Then what it decodes when quick, what in its config differs from the class's defaults, and how
    long the clip is.
    """

    model: str
    summary: str
    latents: tuple[int, ...]
    quick: tuple[int, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    clip: Clip | None = None

    @property
    def family(self) -> Family:
        """The same as a family's model."""
        return Family(self.model, self.model, self.config, _no_inputs, "vae")


_KL: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 1024,
}
_KL_16: Mapping[str, Any] = {
    **_KL,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_DC_AE_STAGES: Mapping[str, Any] = {
    "block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
}
_DC_AE: Mapping[str, Any] = {
    "latent_channels": 32,
    **{
        f"{half}_{key}": each
        for half in ("encoder", "decoder")
        for key, each in _DC_AE_STAGES.items()
    },
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
}
_COG: Mapping[str, Any] = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
}

AUTOENCODERS: Mapping[str, Autoencoder] = {
    "sdxl-vae": Autoencoder(
        "AutoencoderKL", "SDXL's and PixArt-Sigma's VAE, 1024x1024", (4, 128, 128), (4, 16, 16), _KL
    ),
    "sd3-vae": Autoencoder(
        "AutoencoderKL", "SD3's and SD3.5's VAE, 1024x1024", (16, 128, 128), (16, 16, 16), _KL_16
    ),
    "flux-vae": Autoencoder(
        "AutoencoderKL",
        "FLUX.1's and Z-Image's VAE, 1024x1024",
        (16, 128, 128),
        (16, 16, 16),
        _KL_16,
    ),
    "sana-vae": Autoencoder(
        "AutoencoderDC",
        "Sana's deep-compression autoencoder, 1024x1024",
        (32, 32, 32),
        (32, 4, 4),
        _DC_AE,
    ),
    "qwen-image-vae": Autoencoder(
        "AutoencoderKLQwenImage", "Qwen-Image's VAE, 1328x1328", (16, 1, 166, 166), (16, 1, 16, 16)
    ),
    "cogvideox-vae": Autoencoder(
        "AutoencoderKLCogVideoX",
        "CogVideoX's VAE, 49 frames of 720x480",
        (16, 13, 60, 90),
        (16, 2, 4, 6),
        _COG,
        Clip(49, 8),
    ),
    "ltx-vae": Autoencoder(
        "AutoencoderKLLTXVideo",
        "LTX-Video's VAE, 121 frames of 704x480",
        (128, 16, 15, 22),
        (128, 2, 2, 3),
        clip=Clip(121, 24),
    ),
    "wan2.1-vae": Autoencoder(
        "AutoencoderKLWan",
        "Wan2.1's VAE, 81 frames of 832x480",
        (16, 21, 60, 104),
        (16, 2, 4, 6),
        clip=Clip(81, 16),
    ),
    "hunyuan-vae": Autoencoder(
        "AutoencoderKLHunyuanVideo",
        "HunyuanVideo's VAE, 61 frames of 960x544",
        (16, 16, 68, 120),
        (16, 2, 4, 6),
        clip=Clip(61, 24),
    ),
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
