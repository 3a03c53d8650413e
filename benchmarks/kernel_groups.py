"""GroupNorm and SiLU as diffusers' ResNets write them, in UNets and VAEs."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from .kernel_cases import Case, Draw, Family, Inputs


def group_norm_then_silu(
    x: torch.Tensor, groups: int, weight: Any, bias: Any, eps: float, silu: bool, add: Any
) -> torch.Tensor:
    """ResnetBlock2D's: the time embedding where there is one, norm, SiLU."""
    if add is not None:
        x = x + add.reshape(*add.shape, *[1] * (x.dim() - 2))
    y = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(y) if silu else y


def _group_norm_inputs(
    draw: Draw,
    batch: int,
    channels: int,
    height: int,
    width: int,
    frames: int = 0,
    last: bool = False,
    embedded: bool = False,
    silu: bool = True,
) -> Inputs:
    x = draw(batch, channels, *([frames] if frames else []), height, width)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    return {
        "x": x,
        "groups": 32,
        "weight": draw.scales(channels),
        "bias": draw(channels),
        "eps": 1e-5,
        "silu": silu,
        "add": draw(batch, channels) if embedded else None,
    }


def _group_norm_silu(
    module: ModuleType, x: Any, groups: int, weight: Any, bias: Any, **named: Any
) -> Any:
    return module.group_norm_silu(x, groups, weight, bias, **named)


def _group_norm_silu_cost(
    module: ModuleType, x: Any, weight: Any, bias: Any, add: Any, **_: Any
) -> Any:
    return module.group_norm_silu_cost(x, weight, bias, add)


def _case(model: str, what: str, sizes: tuple[int, ...], **options: bool) -> Case:
    """`sizes` are those of x: (batch, channels, height, width), with frames before the height."""
    names = ("batch", "channels", *("frames", "height", "width")[-len(sizes) + 2 :])
    named = dict(zip(names, sizes, strict=True))
    return Case(model, what, named, group_norm_then_silu, options)


_LAST = {"last": True}
_TIMED = {"embedded": True}

GROUP_NORM_SILU = Family(
    "group_norm_silu",
    "group_norm_silu",
    "memory",
    (
        _case("SD1.5", "64x64 with time", (2, 320, 64, 64), **_TIMED),
        _case("SD1.5", "64x64 with time, channels-last", (2, 320, 64, 64), **_TIMED, **_LAST),
        _case("SD1.5", "16x16", (2, 1280, 16, 16)),
        _case("SDXL", "128x128 with time", (2, 320, 128, 128), **_TIMED),
        _case("SDXL", "128x128 with time, channels-last", (2, 320, 128, 128), **_TIMED, **_LAST),
        _case("SDXL", "32x32", (2, 1280, 32, 32)),
        _case("SDXL", "64x64 before attention", (2, 640, 64, 64), silu=False),
        _case("SDXL", "VAE 512x512", (1, 512, 512, 512)),
        _case("SDXL", "VAE 1024x1024", (1, 128, 1024, 1024)),
        _case("SDXL", "VAE 1024x1024, channels-last", (1, 128, 1024, 1024), **_LAST),
        _case("FLUX", "VAE 1024x1024", (1, 128, 1024, 1024)),
        _case("HunyuanVideo", "VAE tile, 256x256x17", (1, 128, 17, 256, 256)),
    ),
    _group_norm_inputs,
    _group_norm_silu,
    _group_norm_silu_cost,
)

FAMILIES = (GROUP_NORM_SILU,)
