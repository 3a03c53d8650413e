"""How far drawings are from stock's, in the two numbers that calibrations hold."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from ..quality.latents import latent_distance
from ..quality.pictures import psnr

if TYPE_CHECKING:
    from ..quality.metrics import Drawing

_EQUAL = 200.0
"""What equal pictures count for, in dB."""


def distances(stock: Sequence[Drawing], drawn: Sequence[Drawing]) -> tuple[float, float | None]:
    """The mean PSNR in dB, of clips over all frames, and relative L2 distance of the final latents.

    The latter is None where a pipe hands out none.
    """
    pairs = list(zip(stock, drawn, strict=True))
    latents = [latent_distance(a.latents, b.latents) for a, b in pairs if a.latents is not None]
    decibels = fmean(min(_EQUAL, psnr(a.pixels, b.pixels)) for a, b in pairs)
    return decibels, fmean(latents) if latents else None
