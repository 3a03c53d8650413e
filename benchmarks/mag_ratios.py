"""MagCache's ratios: how the residual of a model's blocks grows from each step to the next."""

from __future__ import annotations

import re
from ast import literal_eval
from contextlib import redirect_stdout
from io import StringIO
from statistics import fmean
from typing import TYPE_CHECKING, Any

from .errors import Skip
from .peer_tools import denoiser_of

if TYPE_CHECKING:
    from .workloads import Workload

_FLUX, _FLUX_LAYERS = "FluxTransformer2DModel", 19
_PRINTED = re.compile(r"\[1\.0(?:, [0-9.e+-]+)*\]")
"""A list of ratios, the first of which is 1: the first step has nothing before it."""


def mag_ratios(pipe: Any, workload: Workload) -> Any:
    """One ratio a step: those that diffusers brings for FLUX.1-dev, else measured here.

    Raises `Skip` where the calibration measures none.
    """
    from diffusers.hooks import mag_cache

    model = denoiser_of(pipe)
    if type(model).__name__ == _FLUX and model.config.num_layers == _FLUX_LAYERS:
        return mag_cache.FLUX_MAG_RATIOS
    return measured(pipe, workload)


def measured(pipe: Any, workload: Workload) -> list[float]:
    """The ratios of one generation that nobody times, the mean of its passes of guidance.

    MagCache's calibration prints them, pass by pass, and hands them out in no other way.
    """
    from diffusers.hooks import MagCacheConfig

    model = denoiser_of(pipe)
    model.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=workload.steps))
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            workload.prepare(pipe)()
    finally:
        model.disable_cache()
    found = [literal_eval(each) for each in _PRINTED.findall(printed.getvalue())]
    if not found or any(len(each) != workload.steps for each in found):
        raise Skip(f"MagCache's calibration has measured no ratios of {type(model).__name__}.")
    return [fmean(each) for each in zip(*found, strict=True)]
