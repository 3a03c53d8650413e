"""Prompt fidelity: the share of held-out prompts whose picture shows what the prompt says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdaccel.shapes.checker import PARTS, check
from sdaccel.shapes.grammar import Side, sample_scenes

PROMPT_SEED = 2
EVALUATION_SEED = 3
GUIDANCE_SCALE = 3.0
STEPS = 25
CONFIDENCE = 1.959964


@dataclass(frozen=True)
class Fidelity:
    """How many pictures passed, and how many were wrong in each part of the prompt.

    `parts` counts failures; when the number of things is wrong, the other parts of the things are
    not judged and only "count" (and perhaps "background") is counted.
    """

    passed: int
    total: int
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The share that passed, 0 to 1."""
        return self.passed / self.total

    @property
    def low(self) -> float:
        """Lower end of the 95% interval (Wilson 1927)."""
        return _wilson(self.passed, self.total)[0]

    @property
    def high(self) -> float:
        """Upper end of the 95% interval (Wilson 1927)."""
        return _wilson(self.passed, self.total)[1]

    def __str__(self) -> str:
        wrong = ", ".join(f"{part} {self.parts.get(part, 0)}" for part in PARTS)
        return (
            f"prompt fidelity {self.share:.1%} ({self.passed} of {self.total} pictures, "
            f"95% interval {self.low:.1%} to {self.high:.1%}); wrong: {wrong}"
        )


def held_out_prompts(count: int) -> list[str]:
    """The first `count` of a fixed list of distinct prompts that no training picture carries.

    None of them is an evaluation prompt, so speed-ups may be tuned on these.
    """
    return _prompts(PROMPT_SEED, count, "held-out")


def evaluation_prompts(count: int) -> list[str]:
    """The first `count` of a fixed list of distinct prompts that training and tuning never see."""
    return _prompts(EVALUATION_SEED, count, "evaluation")


def _prompts(seed: int, count: int, side: Side) -> list[str]:
    scenes = sample_scenes(np.random.default_rng(seed), count, side=side)
    return [scene.prompt for scene in scenes]


def prompt_fidelity(
    pipe: Any,
    prompts: Sequence[str] | None = None,
    *,
    count: int = 500,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 25,
    progress: bool = True,
    **settings: Any,
) -> Fidelity:
    """Draw one picture a prompt with any text-to-image pipeline and check each.

    Picture i starts from the noise of seed + i, whatever the batch size. Without prompts the first
    `count` held-out ones are drawn. `settings` are keywords of the pipeline's call, for the
    embedded models their `defaults.json`; 25 steps and a guidance scale of 3 unless given. `steps`
    goes before `num_inference_steps`. With `num_frames` clips are drawn and checked, as
    `clip_fidelity` says.
    """
    if "num_frames" in settings:
        from sdaccel.shapes.video.fidelity import clip_fidelity

        return clip_fidelity(
            pipe,
            prompts,
            count=count,
            steps=steps,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            **settings,
        )
    from tqdm import tqdm

    prompts = held_out_prompts(count) if prompts is None else list(prompts)
    if not prompts:
        raise ValueError("prompt fidelity needs at least one prompt")
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE_SCALE, **settings}
    if steps is not None:
        settings["num_inference_steps"] = steps
    passed, failures = 0, Counter[str]()
    starts = range(0, len(prompts), batch_size)
    for start in tqdm(starts, desc="prompt fidelity", disable=not progress):
        batch = prompts[start : start + batch_size]
        pictures = _draw(pipe, batch, seed + start, settings)
        checks = [check(picture, prompt) for picture, prompt in zip(pictures, batch, strict=True)]
        passed += sum(one.passed for one in checks)
        failures.update(part for one in checks for part in one.failed)
    return Fidelity(passed, len(prompts), {part: failures[part] for part in PARTS})


def _draw(pipe: Any, prompts: list[str], seed: int, settings: dict[str, Any]) -> Any:
    import torch

    shown = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(len(prompts))]
    negative = settings.get("negative_prompt")
    if isinstance(negative, str):
        settings = {**settings, "negative_prompt": [negative] * len(prompts)}
    try:
        return pipe(prompts, generator=generators, output_type="np", **settings).images
    finally:
        pipe.set_progress_bar_config(**(shown or {}))


def _wilson(passed: int, total: int) -> tuple[float, float]:
    share, square = passed / total, CONFIDENCE**2
    centre = (share + square / (2 * total)) / (1 + square / total)
    spread = math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    half = CONFIDENCE * spread / (1 + square / total)
    return max(0.0, centre - half), min(1.0, centre + half)
