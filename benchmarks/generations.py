"""Whole generations as workloads, prompt to picture or clip: the embedded models, and any other."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdaccel.errors import ModelNotFoundError

from . import architectures
from .errors import BenchmarkError
from .judging import PROMPTS, Judge
from .workloads import Call, Clip, Workload, noise

if TYPE_CHECKING:
    from importlib.abc import Traversable

    import torch

TINY = "tiny"
_SHAPES = "shapes-"
_PROMPT = "a large red circle above a small blue square on a green background"
_STEPS, _QUICK_STEPS = 25, 4


def names() -> tuple[str, ...]:
    """The generations that have names: the embedded models there are, and `RANDOM` ones."""
    from sdaccel import shapes

    return (*(f"{_SHAPES}{name}" for name in shapes.names()), *RANDOM)


def generation(name: str, quick: bool) -> Workload:
    """The generation of this name of `names`."""
    return random(name, quick) if name in RANDOM else embedded(name, quick)


def embedded(name: str, quick: bool, steps: int | None = None) -> Workload:
    """An embedded model, called as it is made for: in its own number of steps, 4 when quick.

    Its pictures are judged in its own number of steps, whatever is timed, unless `steps` are given.
    """
    from sdaccel import shapes
    from sdaccel.video import FPS

    defaults = shapes.call_defaults(name.removeprefix(_SHAPES))
    usual = int(defaults.get("num_inference_steps", _STEPS))
    count = steps or (_QUICK_STEPS if quick else usual)
    clip = "num_frames" in defaults
    prompt = shapes.clip_prompts(1, "held-out")[0] if clip else _PROMPT
    arguments = {"prompt": prompt, **defaults, "num_inference_steps": count}
    length = vars(Clip(defaults["num_frames"], FPS)) if clip else {}
    return Workload(
        name=name,
        summary="an embedded pipeline, prompt to picture or clip",
        unit="clip" if clip else "picture",
        make=lambda _: _load(name),
        prepare=lambda pipe: _drawing(pipe, arguments),
        quick=quick,
        forwards=count,
        steps=count,
        with_steps=partial(embedded, name, quick),
        settings={"steps": count, "prompt": prompt, **length},
        judge=Judge(name, steps or usual),
        denoiser=_denoiser_in(files("sdaccel.shapes.weights") / name.removeprefix(_SHAPES)),
    )


def any_model(source: str, quick: bool, steps: int | None = None) -> Workload:
    """Any model by its hub id, its folder or its file: one picture or clip of its default size.

    Raises `BenchmarkError` for what can't name a model.
    """
    from sdaccel.pipelines.loading import check_name

    try:
        check_name(source)
    except ModelNotFoundError as error:
        raise BenchmarkError(str(error)) from error
    count = steps or (_QUICK_STEPS if quick else _STEPS)
    path = Path(source)
    return Workload(
        name=path.resolve().stem if path.exists() else source.replace("/", "--"),
        summary="prompt to picture or clip, as the pipeline draws unless told otherwise",
        unit="clip" if _draws_clips(path) else "picture",
        make=lambda _: _load(source),
        prepare=lambda pipe: _drawing(pipe, {"prompt": PROMPTS[0], "num_inference_steps": count}),
        quick=quick,
        forwards=count,
        steps=count,
        with_steps=partial(any_model, source, quick),
        settings={"steps": count, "prompt": PROMPTS[0]},
        judge=Judge(source, count),
        denoiser=_denoiser_in(path),
        source=source,
    )


@dataclass(frozen=True)
class Random:
    """A UNet and a VAE of random weights that draw from as many embeddings of words, in `steps`.

    Time doesn't depend on weights, but what they draw means nothing.
    """

    summary: str
    unet: architectures.Configuration
    vae: architectures.Configuration
    words: int
    steps: int


RANDOM = {
    TINY: Random(
        "a pipeline that draws in milliseconds, to try the harness itself",
        architectures.TINY_UNET,
        architectures.TINY_VAE,
        words=16,
        steps=2,
    ),
    "sd15": Random(
        "Stable Diffusion 1.5, embeddings to picture, guidance batch of 2",
        architectures.SD15_UNET,
        architectures.SD15_VAE,
        words=77,
        steps=_STEPS,
    ),
}
_SCALED_DOWN = {"sd15": replace(RANDOM["sd15"], unet=architectures.SD15_UNET_QUICK, steps=4)}


def random(name: str, quick: bool, steps: int | None = None) -> Workload:
    """A pipeline of `RANDOM`, at the size that its UNet is made for."""
    drawn = _SCALED_DOWN.get(name, RANDOM[name]) if quick else RANDOM[name]
    count = steps or drawn.steps
    return Workload(
        name=name,
        summary=drawn.summary,
        unit="picture",
        make=lambda place: architectures.stable_diffusion(drawn.unet, drawn.vae, place),
        prepare=lambda pipe: _random_drawing(pipe, drawn.words, count),
        quick=quick,
        forwards=count,
        steps=count,
        with_steps=partial(random, name, quick),
        settings={"steps": count},
        denoiser="unet",
    )


def _denoiser_in(folder: Traversable) -> str | None:
    """ "unet" or "transformer", whichever a pipeline's folder has; None for what is no such."""
    parts = _index(folder)
    return next((name for name in ("unet", "transformer") if any(parts.get(name) or ())), None)


def _draws_clips(folder: Path) -> bool:
    """Whether the pipeline of a folder makes clips; of what is no folder that isn't known yet."""
    name = _index(folder).get("_class_name")
    if not isinstance(name, str):
        return False
    import diffusers

    from sdaccel.cli.limits import frames_argument

    kind = getattr(diffusers, name, None)
    return kind is not None and frames_argument(kind) is not None


def _index(folder: Traversable) -> dict[str, Any]:
    """What a pipeline's folder says that it is made of; nothing for what is no such folder."""
    try:
        return dict(json.loads((folder / "model_index.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _random_drawing(pipe: Any, words: int, steps: int) -> Call:
    first = next(pipe.unet.parameters())
    shape = (1, words, pipe.unet.config.cross_attention_dim)
    prompt, negative = (noise(seed, *shape).to(first.device, first.dtype) for seed in (1, 2))
    arguments = {"prompt_embeds": prompt, "negative_prompt_embeds": negative}
    return _drawing(pipe, {**arguments, "num_inference_steps": steps})


def _load(name: str) -> Any:
    """The stock pipeline; raises `BenchmarkError` where there is none."""
    from sdaccel.pipelines.loading import load_pipeline

    try:
        pipe = load_pipeline(name)
    except ModelNotFoundError as error:
        raise BenchmarkError(str(error)) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _drawing(pipe: Any, arguments: dict[str, Any]) -> Call:
    """A call that draws from the same noise: (1, 3, H, W) or (1, frames, 3, H, W) in 0..1, fp32."""
    import torch

    def call() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        output = pipe(**arguments, generator=generator, output_type="pt")
        drawn: torch.Tensor = output.images if hasattr(output, "images") else output.frames
        return drawn.float()

    return call
