"""What a process does in a test of context parallelism; processes import it by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from sdaccel.shapes.training.parallel import rank


def shard(folder: str, name: str, fused_first: bool) -> None:
    """Compute half the tokens of a fused family, and write down what came of it.

    `error` is the relative L2 distance from one process's stock output, `ran` what the pass counted
    and `tokens` what the first block was given.
    """
    os.environ["TRITON_INTERPRET"] = "0"
    torch.set_num_threads(1)
    # diffusers divides by the number of accelerators
    torch.accelerator.device_count = lambda: 1
    found = _compute(name, fused_first)
    Path(folder, f"{rank()}.json").write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.barrier()
    # now and then a thread of the device mesh still runs when the interpreter ends, and aborts it
    os._exit(0)


def _compute(name: str, fused_first: bool) -> dict[str, Any]:
    from diffusers import ContextParallelConfig

    import sdaccel
    from sdaccel.benchmarks.families import Size, families
    from sdaccel.benchmarks.family_pipeline import model_of, pipeline_of
    from sdaccel.benchmarks.measure import relative_error

    (family,) = families([name])
    # tokens of text and of picture are even in number
    inputs = family.draw(Size(8, 8, 2, 6), 0, torch.float32)
    alone = pipeline_of(family)(**inputs)
    pipe = pipeline_of(family)
    blocks, tokens = model_of(pipe).transformer_blocks, []
    if fused_first:
        sdaccel.accelerate(pipe, "none+fuse")
    model_of(pipe).enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    if not fused_first:
        sdaccel.accelerate(pipe, "none+fuse")

    def note(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        tokens.append(inputs["hidden_states"].shape[1])

    blocks[0].register_forward_pre_hook(note, with_kwargs=True)
    error = relative_error(pipe(**inputs), alone)
    return {"error": error, "ran": sdaccel.report(pipe)["fuse"].ran, "tokens": tokens}
