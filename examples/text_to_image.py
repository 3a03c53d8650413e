"""Draw one picture with an embedded model: stock, accelerated, and stock again after restore.

python examples/text_to_image.py ["a large red circle on a green background"] [PLAN] [MODEL]
"""

from __future__ import annotations

import sys

import torch

import sdaccel
from sdaccel import shapes

defaults = ["a large red circle on a green background", "lossless", "unet"]
prompt, plan, model = [*sys.argv[1:], *defaults[len(sys.argv) - 1 :]]
pipe = shapes.load(model)


def draw(file: str) -> None:
    noise = torch.Generator().manual_seed(0)
    pipe(prompt, generator=noise, **shapes.call_defaults(model)).images[0].save(file)


draw("stock.png")
sdaccel.accelerate(pipe, plan)
draw("accelerated.png")
print(sdaccel.report(pipe))
sdaccel.restore(pipe)
draw("restored.png")  # byte for byte stock.png
