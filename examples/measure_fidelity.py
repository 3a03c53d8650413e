"""Measure the prompt fidelity of an embedded model, or of any pipeline saved in a folder.

python examples/measure_fidelity.py --model unet --count 500
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from sdaccel import shapes

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="unet", help="an embedded model's name, or a folder")
parser.add_argument("--count", type=int, default=500, help="held-out prompts to draw")
parser.add_argument("--steps", type=int, help="denoising steps (those the model is made for)")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

if Path(options.model).is_dir():
    pipe = DiffusionPipeline.from_pretrained(
        options.model, local_files_only=True, torch_dtype=torch.float32
    )
    defaults = Path(options.model, "defaults.json")
    settings = json.loads(defaults.read_text()) if defaults.exists() else {}
else:
    pipe, settings = shapes.load(options.model), shapes.call_defaults(options.model)
measured = {"count": options.count, "steps": options.steps, "seed": options.seed}
print(shapes.prompt_fidelity(pipe, **measured, **settings))
