"""Measure the prompt fidelity of an embedded model, or of any pipeline saved in a folder.

python examples/measure_fidelity.py --model unet --count 500
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sdaccel import shapes

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="unet", help="an embedded model's name, or a folder")
parser.add_argument("--count", type=int, default=500, help="held-out prompts to draw")
parser.add_argument("--steps", type=int, default=25)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

if Path(options.model).is_dir():
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(options.model, local_files_only=True)
else:
    pipe = shapes.load(options.model)
print(shapes.prompt_fidelity(pipe, count=options.count, steps=options.steps, seed=options.seed))
