"""What to draw: the arguments of one generation, checked before anything is computed."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import InputError

_SEEDS = 2**63
_STEPS = 25


@dataclass(frozen=True)
class Request:
    """One prompt and how to draw it; what is None is left to `defaults`, then to the pipeline.

    `defaults` are the keywords that the model is meant to be called with. `size` is (width, height)
    in pixels. Picture i of `num_images` starts from the noise of `seed + i`. Raises `InputError`
    for values that no pipeline takes.
    """

    prompt: str
    steps: int | None = None
    seed: int = 0
    num_images: int = 1
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise InputError(_not_text("negative prompt", self.negative_prompt))
        _check_at_least(1, "steps", self.step_count)
        _check_at_least(1, "num-images", self.num_images)
        _check_at_least(0, "seed", self.seed)
        if self.seed + self.num_images > _SEEDS:
            raise InputError(f"The seed must be below 2^63, not {self.seed}.")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise InputError(
                f"The guidance scale must be a finite number, not {self.guidance_scale}."
            )

    @property
    def step_count(self) -> int:
        """The denoising steps: those asked for, the model's own, or 25."""
        if self.steps is not None:
            return self.steps
        count: int = self.defaults.get("num_inference_steps", _STEPS)
        return count

    def arguments(self, pipe: Any) -> dict[str, Any]:
        """The keyword arguments for `pipe`, each time with fresh generators.

        Raises `InputError` for what this pipeline has no argument for, and for a size that its
        VAE can't make.
        """
        import torch

        self._check_size(pipe)
        seeds = range(self.seed, self.seed + self.num_images)
        wanted = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "num_inference_steps": self.step_count,
            self._guidance: self.guidance_scale,
            "width": self.size and self.size[0],
            "height": self.size and self.size[1],
            "num_images_per_prompt": self.num_images if self.num_images > 1 else None,
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "output_type": "pil",
        }
        asked = {name: value for name, value in wanted.items() if value is not None}
        given = {**self.defaults, **asked}
        _check_signature(pipe, given)
        return given

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @property
    def _guidance(self) -> str:
        """Flux calls classifier-free guidance true; its guidance_scale is a distilled input."""
        return "true_cfg_scale" if "true_cfg_scale" in self.defaults else "guidance_scale"

    def _check_size(self, pipe: Any) -> None:
        unit = size_unit(pipe)
        for name, pixels in zip(("width", "height"), self.size or (), strict=False):
            if pixels < 1 or pixels % unit:
                below = pixels // unit * unit
                near = [f"{each}" for each in (below, below + unit) if each > 0]
                raise InputError(
                    f"This model can't draw a {name} of {pixels} pixels: it takes multiples of "
                    f"{unit}, the nearest {'are' if len(near) > 1 else 'is'} {' and '.join(near)}."
                )


def parse_size(text: str) -> tuple[int, int]:
    """ "512" or "768x512" (width x height) as (width, height); `InputError` for anything else."""
    match = re.fullmatch(r"(\d{1,6})(?:[xX](\d{1,6}))?", text.strip())
    if match is None:
        raise InputError(
            f"A size is a number of pixels or WIDTHxHEIGHT, such as 768x512, not '{text}'."
        )
    width, height = match.group(1), match.group(2)
    return int(width), int(height or width)


def size_unit(pipe: Any) -> int:
    """What the sides of a picture must be multiples of, in pixels.

    Every pipeline asks for multiples of 8; beyond that the VAE shrinks by its own factor, and a
    transformer takes patches of at least 2x2 latents.
    """
    factor = getattr(pipe, "vae_scale_factor", getattr(pipe, "vae_scale_factor_spatial", 8))
    patch = 1
    transformer = getattr(pipe, "transformer", None)
    if transformer is not None:
        size = getattr(transformer.config, "patch_size", 1)
        patch = max(2, size if isinstance(size, int) else size[-1])
    return math.lcm(8, int(factor) * patch)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InputError(_not_text(name, value))
    if not value.strip():
        raise InputError(f"The {name} is empty: say what to draw.")


def _not_text(name: str, value: object) -> str:
    return f"The {name} must be text, not {type(value).__name__}."


def _check_at_least(least: int, name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}.")


def _check_signature(pipe: Any, given: dict[str, Any]) -> None:
    """Refuse what the pipeline's call has no parameter for, and a call that misses some."""
    name = type(pipe).__name__
    parameters = inspect.signature(type(pipe).__call__).parameters
    for argument in given:
        if argument not in parameters:
            raise InputError(f"{name} takes no {argument}: leave it out or use another model.")
    needed = [each.name for each in list(parameters.values())[1:] if _is_needed(each)]
    missing = [each for each in needed if each not in given]
    if missing or "num_frames" in parameters:
        what = f"it also needs {', '.join(missing)}" if missing else "it makes videos"
        raise InputError(
            f"{name} makes no picture from a prompt alone ({what}): call it from Python instead."
        )


def _is_needed(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic
