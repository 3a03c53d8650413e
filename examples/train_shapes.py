"""Train an embedded model from nothing, stage by stage, or go on from a trained one.

    python examples/train_shapes.py all --model unet
    python examples/train_shapes.py unet --minutes 60      # go on from the checkpoint
    python examples/train_shapes.py adopt --model unet     # or from the embedded one

"all" runs the stages of a model in order. Each stage goes on from its checkpoint in the output
folder, and stops after --minutes (or --steps) in all, or with a checkpoint when it is interrupted.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch

from sdaccel.shapes.training import parallel
from sdaccel.shapes.training.loop import Recipe
from sdaccel.shapes.training.stage import MODELS, Job, stages_of


def run(stage: str, options: argparse.Namespace) -> None:
    """Run one stage in this process (one of several, when workers train together)."""
    chosen = stages_of(options.model)[stage]
    chosen.run(
        Job(
            folder=Path(options.output or f"runs/shapes-{options.model}"),
            recipe=recipe_of(chosen.recipe, options),
            start=options.start,
            target=options.target,
            pictures=options.pictures,
            scenes=options.scenes,
            evaluate_minutes=options.evaluate_minutes,
            evaluate_count=options.evaluate_count,
        )
    )


def recipe_of(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The stage's recipe with what the command line says."""
    recipe = replace(recipe, seed=options.seed, device=options.device)
    if options.batch_size:
        recipe = replace(recipe, batch_size=options.batch_size)
    if options.minutes or options.steps:
        recipe = replace(recipe, minutes=options.minutes, steps=options.steps)
    if options.save_minutes:
        recipe = replace(recipe, save_minutes=options.save_minutes)
    return recipe


def main() -> None:
    """Read the command line and run the stages, each in its workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", help="a stage of the model, or all")
    parser.add_argument("--model", choices=tuple(MODELS), default="unet")
    parser.add_argument("--output", help="folder of checkpoints (runs/shapes-MODEL)")
    parser.add_argument("--start", type=Path, help="exported pipeline that adopt takes parts of")
    parser.add_argument("--target", type=Path, help="folder to export or pack into")
    parser.add_argument("--minutes", type=float, help="end the stage after so much training")
    parser.add_argument("--steps", type=int, help="end the stage after so many steps")
    parser.add_argument("--save-minutes", type=float, help="write a checkpoint so often")
    parser.add_argument("--batch-size", type=int, help="samples a step, in all processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=12000, help="for the autoencoder")
    parser.add_argument("--scenes", type=int, default=40000, help="for the denoiser")
    parser.add_argument("--evaluate-minutes", type=float, default=10)
    parser.add_argument("--evaluate-count", type=int, default=80)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, help="processes (default: one a core, one on a GPU)")
    options = parser.parse_args()
    stages = stages_of(options.model)
    if options.stage not in ("all", *stages):
        parser.error(f"{options.model} has the stages all, {', '.join(stages)}")
    usual = [name for name, stage in stages.items() if stage.always]
    workers = options.workers or (1 if options.device != "cpu" else os.cpu_count() or 1)
    for name in usual if options.stage == "all" else [options.stage]:
        parallel.launch(run, 1 if stages[name].alone else workers, name, options)


if __name__ == "__main__":
    main()
