"""How far pictures or clips are apart that were drawn from the same prompts and the same noise.

    from sdaccel.quality import psnr, ssim

`comparing.compare` puts pairs through the metrics, `gates` says whether a plan may be used by what
was found, and `faults` what no number may excuse: a black picture, NaN, noise.
"""

from __future__ import annotations

from .pictures import WINDOW, psnr, ssim

__all__ = ["WINDOW", "psnr", "ssim"]
