"""Measure the checker of clips: right prompts must pass, other prompts and misworded ones fail.

python examples/measure_checker.py --count 1000
"""

from __future__ import annotations

import argparse

import numpy as np
from tqdm import tqdm

from sdaccel.shapes.video.checker import compare
from sdaccel.shapes.video.grammar import sample_scenes
from sdaccel.shapes.video.mistakes import misword
from sdaccel.shapes.video.renderer import render_clip
from sdaccel.shapes.video.tracks import follow

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--count", type=int, default=1000, help="held-out scenes to draw")
count = parser.parse_args().count
rng = np.random.default_rng(5)
scenes = sample_scenes(rng, count, side="held-out")
passed = np.zeros(3)
for index, scene in enumerate(tqdm(scenes)):
    found = follow(render_clip(scene, index))
    wanted = (scene, scenes[index - 1], misword(scene, rng)[1])
    passed += [compare(found, one).passed for one in wanted]
right, other, wrong = passed / count
print(f"passed: own prompt {right:.1%}, another {other:.1%}, one word changed {wrong:.1%}")
