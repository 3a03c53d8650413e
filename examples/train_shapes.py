"""Train the embedded text-to-image model from nothing, stage by stage.

    python examples/train_shapes.py all --output runs/shapes-unet
    python examples/train_shapes.py unet --minutes 60      # go on from the checkpoint

Stages: text, autoencoder, encode, unet, decoder, export; "all" runs them in order. Each stage goes
on from its checkpoint in the output folder, and stops after --minutes (or --steps) in all.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch

from sdaccel.shapes.training import parallel, stages
from sdaccel.shapes.training.autoencoder import refine_decoder, train_autoencoder
from sdaccel.shapes.training.loop import Recipe
from sdaccel.shapes.training.text import train_text

STAGES = ("text", "autoencoder", "encode", "unet", "decoder", "export")
RECIPES = {
    "text": Recipe(batch_size=64, decay_share=0.5, average=0.98, steps=900),
    "autoencoder": Recipe(
        batch_size=8,
        learning_rate=2e-3,
        weight_decay=1e-4,
        warm_up=40,
        decay_share=0.7,
        average=0.995,
        minutes=15,
    ),
    "unet": Recipe(batch_size=16, average=0.998, minutes=100),
    "decoder": Recipe(batch_size=8, weight_decay=1e-4, decay_share=0.7, average=0.995, minutes=5),
}


def run(stage: str, options: argparse.Namespace) -> None:
    """Run one stage in this process (one of several, when workers train together)."""
    folder, device = Path(options.output), options.device
    if stage == "encode":
        return stages.encode(folder, options.scenes, options.seed, device)
    if stage == "export":
        return stages.export(folder, Path(options.target or folder / "pipeline"))
    if stage == "pack":
        return stages.pack(folder, Path(options.target or folder / "packed"))
    recipe = replace(RECIPES[stage], seed=options.seed, device=device)
    if options.batch_size:
        recipe = replace(recipe, batch_size=options.batch_size)
    if options.minutes or options.steps:
        recipe = replace(recipe, minutes=options.minutes, steps=options.steps)
    if stage == "text":
        train_text(folder, recipe)
    elif stage == "autoencoder":
        train_autoencoder(folder, recipe, options.pictures)
    elif stage == "decoder":
        refine_decoder(folder, recipe, options.pictures)
    else:
        stages.unet(folder, recipe, options.evaluate_minutes, options.evaluate_count)
    return None


def main() -> None:
    """Read the command line and run the stages, each in its workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("all", *STAGES, "pack"))
    parser.add_argument("--output", default="runs/shapes-unet", help="folder of checkpoints")
    parser.add_argument("--target", help="folder to export or pack into")
    parser.add_argument("--minutes", type=float, help="end the stage after so much training")
    parser.add_argument("--steps", type=int, help="end the stage after so many steps")
    parser.add_argument("--batch-size", type=int, help="pictures a step, in all processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=12000, help="for the autoencoder")
    parser.add_argument("--scenes", type=int, default=40000, help="for the UNet")
    parser.add_argument("--evaluate-minutes", type=float, default=10)
    parser.add_argument("--evaluate-count", type=int, default=80)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, help="processes (default: one a core, one on a GPU)")
    options = parser.parse_args()
    workers = options.workers or (1 if options.device != "cpu" else os.cpu_count() or 1)
    for stage in STAGES if options.stage == "all" else (options.stage,):
        alone = stage in ("text", "export", "pack")
        parallel.launch(run, 1 if alone else workers, stage, options)


if __name__ == "__main__":
    main()
