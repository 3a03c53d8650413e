"""Change the import line, and nothing else: the pipeline is loaded accelerated.

python examples/drop_in.py HUB_ID_OR_FOLDER [PLAN]
"""

from __future__ import annotations

import sys

import torch

import sdaccel
from sdaccel.pipelines import StableDiffusionPipeline  # instead of: from diffusers import ...

if len(sys.argv) < 2:
    sys.exit(__doc__)
plan = sys.argv[2] if len(sys.argv) > 2 else "lossless"
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], plan=plan)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
pipe("a watercolour of a fox", num_inference_steps=25).images[0].save("fox.png")
print(sdaccel.report(pipe))
