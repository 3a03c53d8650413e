"""The stages that make the embedded UNet pipeline, in order, and the files they leave.

text          text.pt                  the text encoder, from prompts alone
autoencoder   autoencoder.pt           encoder and decoder
encode        vae/, latents/           standardised latents of many scenes
unet          unet.pt                  the denoiser
decoder       decoder.pt               the decoder again, on slightly wrong latents
export        pipeline/                averages of all of them in fp16, an embedded model's folder
pack          packed/                  what another machine needs to train on
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from sdaccel.shapes.fidelity import (
    GUIDANCE_SCALE,
    Fidelity,
    held_out_prompts,
    prompt_fidelity,
)
from sdaccel.shapes.models import (
    build_autoencoder,
    build_pipeline,
    build_text_encoder,
    build_unet,
)
from sdaccel.shapes.tokens import build_tokenizer
from sdaccel.shapes.training import parallel
from sdaccel.shapes.training.autoencoder import to_tensor
from sdaccel.shapes.training.data import render_pictures
from sdaccel.shapes.training.denoiser import train_unet
from sdaccel.shapes.training.latents import encode_dataset, load_dataset, standardise
from sdaccel.shapes.training.loop import Recipe
from sdaccel.shapes.weights import seal


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


def encode(folder: Path, count: int, seed: int, device: str) -> None:
    """Standardise the trained autoencoder's latents and encode the UNet's training set."""
    if parallel.rank() == 0 and not (folder / "vae").exists():
        autoencoder = trained(folder, "autoencoder", "autoencoder", build_autoencoder())
        pictures = render_pictures(folder / "pictures.npy", 1000, seed)
        standardise(autoencoder, to_tensor(pictures[:1000], "cpu"))
        autoencoder.save_pretrained(folder / "vae")
    parallel.agree(True)
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae").to(device).eval()
    encode_dataset(folder / "latents", autoencoder, build_tokenizer(), count, seed)


def unet(folder: Path, recipe: Recipe, evaluate_minutes: float, evaluate_count: int) -> None:
    """Train the UNet, measuring the averaged one's fidelity on the way."""
    tokenizer = build_tokenizer()
    text_encoder = trained(folder, "text", "text", build_text_encoder(tokenizer))
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae").eval()
    text_encoder, autoencoder = text_encoder.to(recipe.device), autoencoder.to(recipe.device)

    @torch.no_grad()
    def encode_text(tokens: Tensor) -> Tensor:
        hidden_states: Tensor = text_encoder(tokens).last_hidden_state
        return hidden_states

    def evaluate(averaged: nn.Module) -> dict[str, Any]:
        pipe = build_pipeline(autoencoder, text_encoder, tokenizer, averaged)
        return shared_fidelity(pipe, evaluate_count)

    data = load_dataset(folder / "latents", tokenizer)
    train_unet(folder, recipe, data, encode_text, evaluate, evaluate_minutes)


def shared_fidelity(pipe: Any, count: int) -> dict[str, Any]:
    """Fidelity on `count` held-out prompts, each process drawing its share of them."""
    rank, world = parallel.rank(), parallel.world()
    prompts = held_out_prompts(count)[rank::world]
    found = prompt_fidelity(pipe, prompts, seed=1000 * rank, batch_size=20, progress=False)
    shares = {"passed": found.passed, **found.parts}
    numbers = torch.tensor([float(value) for value in shares.values()])
    parallel.average([numbers])
    total = dict(zip(shares, (numbers * world).round().int().tolist(), strict=True))
    whole = Fidelity(total.pop("passed"), count, total)
    return {"fidelity": whole.share, "low": whole.low, "high": whole.high, "wrong": whole.parts}


def pack(folder: Path, target: Path) -> None:
    """Write what another machine needs to train on, without the optimizer: about 50 MB.

    Training there starts with the stage `encode`, and warms up again.
    """
    (target / "vae").mkdir(parents=True, exist_ok=True)
    for name in ("text", "unet"):
        state = torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True)
        del state["optimizer"]
        state["average"] = {key: value.half() for key, value in state["average"].items()}
        torch.save(state, target / f"{name}.pt")
        shutil.copy(folder / f"{name}.jsonl", target)
    for path in (folder / "vae").iterdir():
        shutil.copy(path, target / "vae")


def export(folder: Path, target: Path) -> None:
    """Write the averaged pipeline as fp16 safetensors, replacing `target` in one move."""
    tokenizer = build_tokenizer()
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae")
    if (folder / "decoder.pt").exists():
        autoencoder = trained(folder, "decoder", "autoencoder", autoencoder)
    pipe = build_pipeline(
        autoencoder,
        trained(folder, "text", "text", build_text_encoder(tokenizer)),
        tokenizer,
        trained(folder, "unet", "unet", build_unet()),
    )
    new, old = target.with_name(target.name + ".new"), target.with_name(target.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    for module in (pipe.vae, pipe.text_encoder, pipe.unet):
        nn.Module.to(module, torch.float16)
    pipe.save_pretrained(new, safe_serialization=True)
    seal(new, {"num_inference_steps": 25, "guidance_scale": GUIDANCE_SCALE})
    if target.exists():
        for kept in target.glob("*.md"):
            shutil.copy(kept, new)
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
