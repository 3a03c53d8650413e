"""Prompt fidelity of clips: the share of prompts whose clip shows what the prompt says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdaccel.shapes.fidelity import Fidelity
from sdaccel.shapes.grammar import Side
from sdaccel.shapes.video.checker import PARTS, check_clip
from sdaccel.shapes.video.grammar import sample_scenes
from sdaccel.shapes.video.models import DEFAULTS

PROMPT_SEEDS: dict[Side, int] = {"held-out": 2, "evaluation": 3}


class ClipFidelity(Fidelity):
    """How many clips passed, and how many were wrong in each part of the prompt."""

    def __str__(self) -> str:
        wrong = ", ".join(f"{part} {self.parts.get(part, 0)}" for part in PARTS)
        return (
            f"prompt fidelity {self.share:.1%} ({self.passed} of {self.total} clips, "
            f"95% interval {self.low:.1%} to {self.high:.1%}); wrong: {wrong}"
        )


def clip_prompts(count: int, side: Side = "held-out") -> list[str]:
    """The first `count` of a fixed list of distinct prompts, from a side that no training sees."""
    rng = np.random.default_rng(PROMPT_SEEDS[side])
    return [scene.prompt for scene in sample_scenes(rng, count, side=side)]


def clip_fidelity(
    pipe: Any,
    prompts: Sequence[str] | None = None,
    *,
    count: int = 500,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 10,
    progress: bool = True,
    **settings: Any,
) -> ClipFidelity:
    """Draw one clip a prompt with any text-to-video pipeline and check each.

    Clip i starts from the noise of seed + i, whatever the batch size. Without prompts the first
    `count` held-out ones are drawn. `settings` are keywords of the pipeline's call; those that the
    embedded model is made for hold unless given. `steps` goes before `num_inference_steps`.
    """
    from tqdm import tqdm

    prompts = clip_prompts(count) if prompts is None else list(prompts)
    if not prompts:
        raise ValueError("prompt fidelity needs at least one prompt")
    settings = {**DEFAULTS, **settings}
    if steps is not None:
        settings["num_inference_steps"] = steps
    passed, failures = 0, Counter[str]()
    starts = range(0, len(prompts), batch_size)
    for start in tqdm(starts, desc="prompt fidelity", disable=not progress):
        batch = list(prompts[start : start + batch_size])
        clips = draw_clips(pipe, batch, seed + start, settings)
        checks = [check_clip(clip, prompt) for clip, prompt in zip(clips, batch, strict=True)]
        passed += sum(one.passed for one in checks)
        failures.update(part for one in checks for part in one.failed)
    return ClipFidelity(passed, len(prompts), {part: failures[part] for part in PARTS})


def draw_clips(pipe: Any, prompts: list[str], seed: int, settings: Mapping[str, Any]) -> np.ndarray:
    """One clip a prompt, (clips, frames, H, W, 3) in 0..1, each from the noise of its own seed."""
    import torch

    shown = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(len(prompts))]
    try:
        frames = pipe(prompts, generator=generators, output_type="np", **settings).frames
    finally:
        pipe.set_progress_bar_config(**(shown or {}))
    return np.asarray(frames)
