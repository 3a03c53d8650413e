"""Draws the same prompts from the same noise with a pipe, whatever its plan, for a comparison."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..quality.metrics import Drawing
from .drawing import call, clips_of
from .limits import frames_argument

if TYPE_CHECKING:
    from .request import Request

_PICTURES_AT_ONCE = 4


@dataclass(frozen=True)
class Task:
    """The prompts and how to draw each; picture i starts from the noise of the request's seed + i.

    The request's own prompt and number of drawings count for nothing. `at_once` is the size of a
    batch; None means four pictures, or one clip.
    """

    prompts: tuple[str, ...]
    request: Request
    at_once: int | None = None

    def check(self, pipe: Any) -> None:
        """Raise `InputError` where `pipe` can't draw this, before anything is drawn."""
        self._arguments(pipe, 0, self.prompts[:1])

    def batches(self, pipe: Any) -> list[tuple[int, tuple[str, ...]]]:
        """Where each batch starts, and its prompts: as equal in size as can be."""
        at_once = self.at_once or (1 if frames_argument(pipe) else _PICTURES_AT_ONCE)
        many = -(-len(self.prompts) // at_once)
        bounds = [len(self.prompts) * index // many for index in range(many + 1)]
        return [(start, self.prompts[start:end]) for start, end in pairwise(bounds)]

    def draw(self, pipe: Any, name: str) -> list[Drawing]:
        """A drawing a prompt, with a progress bar under `name`."""
        from tqdm import tqdm

        drawings: list[Drawing] = []
        with tqdm(total=len(self.prompts), desc=name, leave=False) as bar:
            for start, prompts in self.batches(pipe):
                drawings += self._draw_batch(pipe, start, prompts)
                bar.update(len(prompts))
        return drawings

    def _draw_batch(self, pipe: Any, start: int, prompts: Sequence[str]) -> list[Drawing]:
        last = _Last()
        arguments = self._arguments(pipe, start, prompts)
        if "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:
            arguments["callback_on_step_end"] = last
        output, _ = call(pipe, arguments, None)
        shown = clips_of(output) if frames_argument(pipe) else output.images
        return [Drawing(pixels, last.of(index)) for index, pixels in enumerate(shown)]

    def _arguments(self, pipe: Any, start: int, prompts: Sequence[str]) -> dict[str, Any]:
        """The keywords of one batch; raises `InputError` for what this pipeline can't draw."""
        import torch

        first = self.request.seed + start
        seeds = range(first, first + len(prompts))
        arguments = {
            **replace(self.request, num_images=1).arguments(pipe),
            "prompt": list(prompts),
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "output_type": "np",
        }
        negative = arguments.get("negative_prompt")
        if isinstance(negative, str):
            arguments["negative_prompt"] = [negative] * len(prompts)
        return arguments


class _Last:
    """A callback at the end of each step that keeps the latents of the last one."""

    def __init__(self) -> None:
        self._latents: Any = None

    def __call__(
        self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        self._latents = tensors["latents"]
        return {}

    def of(self, index: int) -> Any:
        """The latents of one picture of the batch, float32 on the CPU; None without any."""
        return None if self._latents is None else self._latents[index].detach().float().cpu()
