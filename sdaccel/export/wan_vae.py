"""Wan's VAE on whole clips: diffusers runs it frame by frame, in a loop that a graph would unroll.

Its convolutions look back in time alone, so a whole clip gives what the frames in turn give, but
for the layers that change the number of frames: they leave the first frame as it is. A clip has
4 * n + 1 frames, n at least 1, and costs the memory of all of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from ..patch import Patch
from .forms import Outputs, VaeDecoder, VaeEncoder


class WanEncoder(VaeEncoder):
    """`encode` without the loop."""

    def prepare(self, patch: Patch) -> None:
        """Let layers that halve the frames see all of them."""
        super().prepare(patch)
        _whole_clips(self.module.encoder, patch)

    def stock(self, arguments: Mapping[str, Any]) -> Outputs:
        """The model's own loop."""
        return super().forward(arguments)

    def forward(self, arguments: Mapping[str, Any]) -> Outputs:
        """`moments` (batch, 2 * channels, n + 1, height / 8, width / 8)."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        vae: Any = self.module
        clip = arguments["x"]
        if vae.config.patch_size is not None:
            clip = patchify(clip, patch_size=vae.config.patch_size)
        return {"moments": vae.quant_conv(vae.encoder(clip))}


class WanDecoder(VaeDecoder):
    """`decode` without the loop."""

    def prepare(self, patch: Patch) -> None:
        """Let layers that double the frames see all of them."""
        super().prepare(patch)
        _whole_clips(self.module.decoder, patch)

    def stock(self, arguments: Mapping[str, Any]) -> Outputs:
        """The model's own loop."""
        return super().forward(arguments)

    def forward(self, arguments: Mapping[str, Any]) -> Outputs:
        """`sample` (batch, 3, 4 * n + 1, 8 * height, 8 * width)."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        vae: Any = self.module
        clip = vae.decoder(vae.post_quant_conv(arguments["z"]))
        if vae.config.patch_size is not None:
            clip = unpatchify(clip, patch_size=vae.config.patch_size)
        return {"sample": clip.clamp(-1.0, 1.0)}


def _whole_clips(half: Any, patch: Patch) -> None:
    for layer in half.modules():
        mode = getattr(layer, "mode", None)
        if mode == "upsample3d":
            patch.set(layer, "forward", partial(_doubled, layer))
        elif mode == "downsample3d":
            patch.set(layer, "forward", partial(_halved, layer))


def _doubled(layer: Any, clip: torch.Tensor, **_: Any) -> torch.Tensor:
    """Two frames for each but the first, then each twice as high and wide."""
    first, rest = clip[:, :, :1], clip[:, :, 1:]
    batch, channels, frames, height, width = rest.shape
    pairs = layer.time_conv(rest).reshape(batch, 2, channels, frames, height, width)
    later = torch.stack((pairs[:, 0], pairs[:, 1]), 3)
    later = later.reshape(batch, channels, 2 * frames, height, width)
    return _resampled(layer, torch.cat([first, later], 2))


def _halved(layer: Any, clip: torch.Tensor, **_: Any) -> torch.Tensor:
    """Each half as high and wide, then one frame for two, but the first, which stays."""
    smaller = _resampled(layer, clip)
    return torch.cat([smaller[:, :, :1], layer.time_conv(smaller)], 2)


def _resampled(layer: Any, clip: torch.Tensor) -> torch.Tensor:
    batch, _, frames = clip.shape[:3]
    pictures = layer.resample(clip.transpose(1, 2).flatten(0, 1))
    resampled: torch.Tensor = pictures.unflatten(0, (batch, frames)).transpose(1, 2)
    return resampled
