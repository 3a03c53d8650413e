"""The stages that models share, and the files that they leave in the output folder.

adopt    text.pt, vae/, ...   trained parts of an exported pipeline, to start from
encode   vae/, latents/       standardised latents of many scenes, with prompts and layouts
export   pipeline/            averages in fp16, an embedded model's folder
pack     packed/              what another machine needs to train on
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from sdaccel.shapes import weights
from sdaccel.shapes.fidelity import Fidelity, held_out_prompts, prompt_fidelity
from sdaccel.shapes.models import build_autoencoder
from sdaccel.shapes.training import parallel
from sdaccel.shapes.training.autoencoder import to_tensor
from sdaccel.shapes.training.card import fill_in
from sdaccel.shapes.training.data import render_pictures
from sdaccel.shapes.training.denoiser import Task, train_denoiser
from sdaccel.shapes.training.latents import encode_dataset, load_dataset, standardise
from sdaccel.shapes.training.stage import Job
from sdaccel.shapes.video.fidelity import clip_prompts

STANDARD_PICTURES = 1000


def trained(folder: Path, stage: str, key: str, module: nn.Module) -> Any:
    """Fill a module with the averaged weights that a stage left in its checkpoint."""
    path = folder / f"{stage}.pt"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run the stage {stage!r} first")
    state = torch.load(path, map_location="cpu", weights_only=True)["average"]
    prefix = f"{key}."
    module.load_state_dict(
        {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    )
    return module.requires_grad_(False).eval()


def trained_since(folder: Path, stage: str, made: Path) -> bool:
    """Whether a stage took steps here (it wasn't just adopted) after a folder was made of it."""
    path = folder / f"{stage}.pt"
    if made.exists() and (not path.exists() or path.stat().st_mtime <= made.stat().st_mtime):
        return False
    return not made.exists() or torch.load(path, map_location="cpu", weights_only=True)["step"] > 0


def started_from(job: Job, model: str = "unet") -> Path:
    """The pipeline to take trained parts from: `start`, or an embedded one."""
    return job.start or Path(weights.__file__).parent / model


def adopt(folder: Path, stage: str, key: str, module: nn.Module) -> None:
    """Leave a trained module as its stage's checkpoint; training goes on from there, warming up.

    A checkpoint that is there already stays.
    """
    path = folder / f"{stage}.pt"
    if path.exists():
        return
    weights = {f"{key}.{name}": value.float() for name, value in module.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"modules": weights, "average": weights, "step": 0, "seconds": 0.0}, path)


def adopt_autoencoder(folder: Path, start: Path) -> None:
    """Take the autoencoder of an exported pipeline, whose latents are standardised."""
    if not (folder / "vae").exists():
        AutoencoderKL.from_pretrained(start / "vae").float().save_pretrained(folder / "vae")


def encode(job: Job) -> None:
    """Standardise the autoencoder's latents, if it was trained here, and encode the training set.

    An autoencoder trained further since the last time encodes everything anew.
    """
    folder, device, seed = job.folder, job.recipe.device, job.recipe.seed
    if parallel.rank() == 0 and trained_since(folder, "autoencoder", folder / "vae"):
        autoencoder = trained(folder, "autoencoder", "autoencoder", build_autoencoder())
        pictures = render_pictures(folder / "pictures.npy", STANDARD_PICTURES, seed)
        standardise(autoencoder, to_tensor(np.array(pictures[:STANDARD_PICTURES]), "cpu"))
        shutil.rmtree(folder / "latents", ignore_errors=True)
        autoencoder.save_pretrained(folder / "vae")
    parallel.agree(True)
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae").to(device).eval()
    encode_dataset(folder / "latents", autoencoder, job.scenes, seed)


def autoencoder_of(folder: Path) -> Any:
    """The folder's autoencoder, with the refined decoder where there is one."""
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae").eval()
    if (folder / "decoder.pt").exists():
        autoencoder = trained(folder, "decoder", "autoencoder", autoencoder)
    return autoencoder


def train(
    job: Job,
    task: Task,
    pipeline: Callable[[nn.Module], Any],
    defaults: Mapping[str, Any],
) -> None:
    """Train a denoiser; on the way the averaged one draws with the pipeline that is made of it."""

    def evaluate(averaged: nn.Module) -> dict[str, Any]:
        return shared_fidelity(pipeline(averaged), job.evaluate_count, defaults)

    data = load_dataset(job.folder / "latents")
    train_denoiser(job.folder, job.recipe, task, data, evaluate, job.evaluate_minutes)


def shared_fidelity(pipe: Any, count: int, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Fidelity on `count` held-out prompts, each process drawing its share of them.

    `defaults` are the keywords that the pipeline is called with; with `num_frames` it makes clips.
    """
    rank, world = parallel.rank(), parallel.world()
    prompts_of = clip_prompts if "num_frames" in defaults else held_out_prompts
    prompts = prompts_of(count)[rank::world]
    found = prompt_fidelity(
        pipe, prompts, seed=1000 * rank, batch_size=20, progress=False, **defaults
    )
    shares = {"passed": found.passed, **found.parts}
    numbers = torch.tensor([float(value) for value in shares.values()])
    parallel.average([numbers])
    total = dict(zip(shares, (numbers * world).round().int().tolist(), strict=True))
    whole = Fidelity(total.pop("passed"), count, total)
    return {"fidelity": whole.share, "low": whole.low, "high": whole.high, "wrong": whole.parts}


def pack(job: Job, stages: Sequence[str]) -> None:
    """Write what another machine needs to train on, without the optimizers.

    Training there starts with the stage `encode`, and warms up again.
    """
    target = job.target or job.folder / "packed"
    shutil.copytree(job.folder / "vae", target / "vae", dirs_exist_ok=True)
    for name in stages:
        state = torch.load(job.folder / f"{name}.pt", map_location="cpu", weights_only=True)
        state.pop("optimizers", None)
        state["average"] = {key: value.half() for key, value in state["average"].items()}
        torch.save(state, target / f"{name}.pt")
        if (job.folder / f"{name}.jsonl").exists():
            shutil.copy(job.folder / f"{name}.jsonl", target)


def export(job: Job, pipe: Any, defaults: Mapping[str, Any]) -> None:
    """Write a pipeline as an embedded model's folder of fp16 safetensors, replacing the target.

    Markdown files of the target stay; their table of the training is filled in from the curves.
    """
    target = job.target or job.folder / "pipeline"
    new, old = target.with_name(target.name + ".new"), target.with_name(target.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            nn.Module.to(module, torch.float16)
    pipe.save_pretrained(new, safe_serialization=True)
    forget_origins(new)
    weights.seal(new, defaults)
    if target.exists():
        for card in target.glob("*.md"):
            (new / card.name).write_text(fill_in(card.read_text(), job.folder))
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)


def forget_origins(folder: Path) -> None:
    """Drop from the configurations the folders that parts were loaded from."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
