"""Draw one picture with the embedded model: stock, accelerated, and stock again after restore.

python examples/text_to_image.py ["a large red circle on a green background"] [PLAN]
"""

from __future__ import annotations

import sys

import torch

import sdaccel
from sdaccel import shapes

prompt = sys.argv[1] if len(sys.argv) > 1 else "a large red circle on a green background"
plan = sys.argv[2] if len(sys.argv) > 2 else "lossless"
pipe = shapes.load("unet")


def draw(file: str) -> None:
    noise = torch.Generator().manual_seed(0)
    pipe(prompt, num_inference_steps=25, guidance_scale=3.0, generator=noise).images[0].save(file)


draw("stock.png")
sdaccel.accelerate(pipe, plan)
draw("accelerated.png")
print(sdaccel.report(pipe))
sdaccel.restore(pipe)
draw("restored.png")  # byte for byte stock.png
