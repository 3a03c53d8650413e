"""Faster decoding: channels-last weights, and tiles only when the memory would not suffice.

A VAE runs once a picture but at full resolution: its decoder reads and writes the largest
activations of the whole pipeline.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..device import describe
from ..target import dtype_of
from .base import Effect, Pass
from .memory_format import count_calls, to_channels_last

if TYPE_CHECKING:
    import torch

    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Target

_LIVE_ACTIVATIONS = 4
"""Full-size activations alive at once in a ResNet of the decoder's last level: its input, the
normalised copy, the convolution's output and the shortcut."""

_STRAYING = (
    "stays in stock's order: in fp32 on a CPU, channels-last norms and convolutions round more, "
    "2.1e-5 from stock in a decode at 512x512, where exact allows 1e-5"
)


@dataclass(frozen=True)
class Vae(Pass):
    """Channels-last decoding, where that is exact, and tiled decoding.

    `tiling` is "auto" (only when memory needs it), "always" or "never".

    Tiles are blended where they meet: a tiled picture differs slightly from a whole one, so the
    report notes every tiled decode.
    """

    tiling: Literal["auto", "always", "never"] = "auto"

    name: ClassVar[str] = "vae"
    summary: ClassVar[str] = (
        "VAE in channels-last order where exact, tiled only when memory needs it"
    )
    effect: ClassVar[Effect] = Effect.EXACT
    order: ClassVar[int] = 50

    def __post_init__(self) -> None:
        if self.tiling not in ("auto", "always", "never"):
            raise ValueError(f"tiling is 'auto', 'always' or 'never', not {self.tiling!r}")

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        for component, vae in target.each(record, "vae"):
            with patch.scope(component.module):
                if _strays(target, vae):
                    record.note(f"{component.name}: {_STRAYING}")
                elif changed := to_channels_last(vae, patch):
                    record.changed[f"{component.name} convolutions"] = changed
                count_calls(component, patch, record)
                self._watch_memory(component.name, vae, patch, record)

    def _watch_memory(self, name: str, vae: Any, patch: Patch, record: PassRecord) -> None:
        if self.tiling == "never":
            return
        if not hasattr(vae, "use_tiling") or not hasattr(vae, "decode"):
            record.note(f"{name} can't tile, so it is decoded whole whatever the size")
            return
        patch.set(vae, "decode", self._tiling_decode(vae, vae.decode, record))
        record.changed["decoders watched for memory"] += 1

    def _tiling_decode(
        self, vae: Any, decode: Callable[..., Any], record: PassRecord
    ) -> Callable[..., Any]:
        @functools.wraps(decode)
        def tiling_decode(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            needed = decode_bytes(vae, z)
            free = describe(z.device).memory_available
            if vae.use_tiling or (self.tiling == "auto" and needed <= free):
                return decode(z, *args, **kwargs)
            record.ran["tiled decodes"] += 1
            record.note(
                f"decoded {tuple(z.shape)} in tiles, blended where they meet: whole it takes about "
                f"{needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
            )
            vae.use_tiling = True
            try:
                return decode(z, *args, **kwargs)
            finally:
                vae.use_tiling = False

        return tiling_decode


def _strays(target: Target, vae: Any) -> bool:
    import torch

    return target.device.type == "cpu" and dtype_of(vae) == torch.float32


def decode_bytes(vae: Any, z: torch.Tensor) -> int:
    """The activations, in bytes, that decoding latents `z` (N, C, ..., H, W) whole keeps at once.

    Counted at the decoder's last level, where height and width are full and the channels are those
    of the level before.
    """
    channels = list(getattr(vae.config, "block_out_channels", None) or [128])
    scale: int = 2 ** (len(channels) - 1)
    positions = int(z.numel()) // z.shape[1] * scale * scale
    width: int = channels[min(1, len(channels) - 1)]
    return _LIVE_ACTIVATIONS * positions * width * int(z.element_size())
