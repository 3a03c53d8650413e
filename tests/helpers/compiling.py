"""What the tests of compiled code share."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from torch import nn

import sdaccel
from sdaccel.passes.compiled import Compiler
from sdaccel.passes.compiled_region import Region
from sdaccel.passes.regions import repeated_blocks
from sdaccel.report import PassRecord


def unet_inputs(size: int = 8, batch: int = 2, width: int | None = None) -> dict[str, Any]:
    """The arguments of a tiny UNet's call, for latents of a height and a width."""
    torch.manual_seed(1)
    return {
        "sample": torch.randn(batch, 4, size, width or size),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(batch, 6, 32),
    }


def run(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """A model's output."""
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The relative L2 error."""
    return float((found - expected).norm() / expected.norm())


def replace_regionally(model: Any, **options: Any) -> PassRecord:
    """What the pass does to a model that stands in no pipeline."""
    record = PassRecord("compile", "exact")
    compiler = Compiler("model", record, **{"backend": "eager", **options})
    for _, block in repeated_blocks(model):
        block.forward = Region(block, compiler)
    return record


def change_weight(layer: Any, how: str) -> None:
    """Change a layer's weight."""
    with torch.no_grad():
        if how == "in place":
            layer.weight.add_(1)
        elif how == "through data":
            layer.weight.data += 1
        else:
            layer.weight = nn.Parameter(layer.weight + 1)


def compiled(pipe: Any = None, **options: Any) -> Any:
    """A pipe with nothing but `compile`, with a backend that compiles nothing and counts."""
    options = {"backend": "eager", "vae": False, **options}
    return sdaccel.accelerate(pipe or tiny.stable_diffusion(), "none", compile=options)


def ran(pipe: Any) -> Any:
    """The report's counts."""
    return sdaccel.report(pipe)["compile"].ran
