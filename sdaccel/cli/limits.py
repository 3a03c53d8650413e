"""What a pipeline makes, and which sizes and how many frames it can make."""

from __future__ import annotations

import inspect
import math
from typing import Any

from ..errors import InputError

_FRAMES = ("num_frames", "video_length")
_RATES = ("frame_rate", "fps")
_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt")
_SPATIAL = (
    "vae_scale_factor",
    "vae_scale_factor_spatial",
    "vae_spatial_compression_ratio",
    "vae_spatial_scale_factor",
)
_TEMPORAL = (
    "vae_scale_factor_temporal",
    "vae_temporal_compression_ratio",
    "vae_temporal_scale_factor",
)


def frames_argument(pipe: Any) -> str | None:
    """What a pipeline's, or its class's, call names the number of frames; None for pictures."""
    return _first_parameter(pipe, _FRAMES)


def rate_argument(pipe: Any) -> str | None:
    """What the call names the frames a second, for models that are told; None for the others."""
    return _first_parameter(pipe, _RATES) if frames_argument(pipe) else None


def count_argument(pipe: Any) -> str:
    """What the call names the number of drawings, whether it has that argument or not."""
    return _first_parameter(pipe, _COUNTS) or _COUNTS[0]


def check_size(pipe: Any, size: tuple[int, int]) -> None:
    """Raise `InputError` for a (width, height) in pixels that the model can't draw."""
    unit, most = size_unit(pipe), _most_positions(pipe)
    for name, pixels in zip(("width", "height"), size, strict=True):
        if pixels < 1 or pixels % unit:
            raise InputError(
                f"This model can't draw a {name} of {pixels} pixels: it takes multiples of "
                f"{unit}, {_nearest(pixels, unit, 0)}."
            )
        if most and pixels > most * _pixels_a_position(pipe):
            raise InputError(
                f"This model can't draw a {name} of {pixels} pixels: it knows positions up to "
                f"{most * _pixels_a_position(pipe)}."
            )


def check_frames(pipe: Any, frames: int) -> None:
    """Raise `InputError` for a number of frames that the model can't make."""
    unit, rest = frames_unit(pipe)
    if frames % unit != rest % unit:
        raise InputError(
            f"This model can't make {frames} frames: it takes {rest} more than a multiple of "
            f"{unit}, {_nearest(frames, unit, rest)}."
        )
    most = _most_frames(pipe)
    if most and frames > most:
        raise InputError(f"This model can't make {frames} frames: it makes at most {most}.")


def size_unit(pipe: Any) -> int:
    """What the sides of a picture must be multiples of, in pixels.

    Every pipeline asks for multiples of 8; beyond that the VAE shrinks by its own factor, and a
    transformer takes patches, those that draw pictures of at least 2x2 latents.
    """
    return math.lcm(8, _pixels_a_position(pipe))


def frames_unit(pipe: Any) -> tuple[int, int]:
    """(u, r) where a number of frames must be k u + r; (1, 0) where any will do.

    A causal VAE keeps the first frame and takes the others in groups of its factor. Whether a
    pipeline's VAE is one shows in the number of frames that it makes unasked.
    """
    factor = int(_attribute(pipe, _TEMPORAL, 1))
    argument = frames_argument(pipe)
    if factor == 1 or argument is None:
        return 1, 0
    usual = inspect.signature(type(pipe).__call__).parameters[argument].default
    if not isinstance(usual, int):
        usual = _config(pipe, "sample_frames", 0)
    return (factor, 1) if usual % factor == 1 else (1, 0)


def _pixels_a_position(pipe: Any) -> int:
    factor = int(_attribute(pipe, _SPATIAL, 8))
    if getattr(pipe, "transformer", None) is None:
        return factor
    patch = _config(pipe, "patch_size", 1)
    side = patch if isinstance(patch, int) else patch[-1]
    least = 1 if frames_argument(pipe) else 2
    return factor * max(least, side)


def _most_positions(pipe: Any) -> int | None:
    """How long the rotary tables are along each axis, in models that keep such tables (Wan)."""
    most: int | None = _config(pipe, "rope_max_seq_len", None)
    return most


def _most_frames(pipe: Any) -> int | None:
    adapter = getattr(getattr(pipe, "motion_adapter", None), "config", None)
    most: int | None = getattr(adapter, "motion_max_seq_length", None)
    positions = _most_positions(pipe)
    if positions is not None:
        frames_a_patch = _config(pipe, "patch_size", (1, 1, 1))[0]
        unit, rest = frames_unit(pipe)
        most = (positions * frames_a_patch - rest) * unit + rest
    return most


def _first_parameter(pipe: Any, names: tuple[str, ...]) -> str | None:
    kind = pipe if isinstance(pipe, type) else type(pipe)
    parameters = inspect.signature(kind.__call__).parameters
    return next((name for name in names if name in parameters), None)


def _attribute(pipe: Any, names: tuple[str, ...], otherwise: Any) -> Any:
    return next((getattr(pipe, name) for name in names if hasattr(pipe, name)), otherwise)


def _config(pipe: Any, name: str, otherwise: Any) -> Any:
    config = getattr(getattr(pipe, "transformer", None), "config", None)
    return getattr(config, name, otherwise)


def _nearest(number: int, unit: int, rest: int) -> str:
    below = (number - rest) // unit * unit + rest
    near = [f"{each}" for each in (below, below + unit) if each > 0]
    return f"the nearest {'are' if len(near) > 1 else 'is'} {' and '.join(near)}"
