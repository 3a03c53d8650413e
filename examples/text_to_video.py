"""Make one clip with the embedded video model, stock and accelerated, and write both as films.

python examples/text_to_video.py ["a red circle moves left above a still green square"] [PLAN]
"""

from __future__ import annotations

import sys

import torch

import sdaccel
from sdaccel import shapes
from sdaccel.video import write_video

defaults = ["a red circle moves left above a still green square", "lossless"]
prompt, plan = [*sys.argv[1:], *defaults[len(sys.argv) - 1 :]]
pipe = shapes.load("video")


def make(file: str) -> None:
    noise = torch.Generator().manual_seed(0)
    write_video(pipe(prompt, generator=noise, **shapes.call_defaults("video")).frames[0], file)


make("stock.mp4")
sdaccel.accelerate(pipe, plan)
make("accelerated.mp4")
print(sdaccel.report(pipe))
