"""What to draw: the arguments of one generation, checked before anything is computed."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import InputError
from ..video import FPS
from .limits import (
    check_frames,
    check_size,
    count_argument,
    frames_argument,
    rate_argument,
)

_SEEDS = 2**63
_STEPS = 25


@dataclass(frozen=True)
class Request:
    """One prompt and how to draw it; what is None is left to `defaults`, then to the pipeline.

    `defaults` are the keywords that the model is meant to be called with. `size` is (width, height)
    in pixels, `num_frames` and `fps` are a clip's. Drawing i of `num_images` starts from the noise
    of `seed + i`. Raises `InputError` for values that no pipeline takes.
    """

    prompt: str
    steps: int | None = None
    seed: int = 0
    num_images: int = 1
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None
    num_frames: int | None = None
    fps: float | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise InputError(_not_text("negative prompt", self.negative_prompt))
        _check_at_least(1, "steps", self.step_count)
        _check_at_least(1, "num-images", self.num_images)
        _check_at_least(0, "seed", self.seed)
        if self.num_frames is not None:
            _check_at_least(1, "num-frames", self.num_frames)
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise InputError(f"fps must be a finite number above 0, not {self.fps}.")
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

        Raises `InputError` for what this pipeline has no argument for, and for a size or a number
        of frames that it can't make.
        """
        import torch

        if self.size is not None:
            check_size(pipe, self.size)
        if self.num_frames is not None and frames_argument(pipe):
            check_frames(pipe, self.num_frames)
        seeds = range(self.seed, self.seed + self.num_images)
        wanted = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "num_inference_steps": self.step_count,
            self._guidance: self.guidance_scale,
            "width": self.size and self.size[0],
            "height": self.size and self.size[1],
            **self._of_a_kind(pipe),
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "output_type": "pil",
        }
        asked = {name: value for name, value in wanted.items() if value is not None}
        given = {**self.defaults, **asked}
        _check_signature(pipe, given)
        return given

    def frame_rate(self, pipe: Any) -> float:
        """Frames a second: those asked for, those that the pipeline is made for, or 16."""
        if self.fps is not None:
            return self.fps
        argument = rate_argument(pipe)
        usual = argument and inspect.signature(type(pipe).__call__).parameters[argument].default
        return float(usual) if isinstance(usual, (int, float)) else FPS

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def _of_a_kind(self, pipe: Any) -> dict[str, Any]:
        """The arguments that pipelines for clips and for pictures have different names for."""
        frames, rate = frames_argument(pipe), rate_argument(pipe)
        if frames is None and (self.num_frames is not None or self.fps is not None):
            raise InputError(
                f"{type(pipe).__name__} makes pictures: leave out --num-frames and --fps, or use "
                "a video model."
            )
        count = self.num_images if self.num_images > 1 else None
        wanted = {count_argument(pipe): count, frames: self.num_frames, rate: self.fps}
        return {name: value for name, value in wanted.items() if name is not None}

    @property
    def _guidance(self) -> str:
        """Flux calls classifier-free guidance true; its guidance_scale is a distilled input."""
        return "true_cfg_scale" if "true_cfg_scale" in self.defaults else "guidance_scale"


def parse_size(text: str) -> tuple[int, int]:
    """ "512" or "768x512" (width x height) as (width, height); `InputError` for anything else."""
    match = re.fullmatch(r"(\d{1,6})(?:[xX](\d{1,6}))?", text.strip())
    if match is None:
        raise InputError(
            f"A size is a number of pixels or WIDTHxHEIGHT, such as 768x512, not '{text}'."
        )
    width, height = match.group(1), match.group(2)
    return int(width), int(height or width)


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
    if missing:
        raise InputError(
            f"{name} draws from more than a prompt (it also needs {', '.join(missing)}): call it "
            "from Python instead."
        )


def _is_needed(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic
