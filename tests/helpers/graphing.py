"""Tiny pipes with graphs, calls of their denoisers, and what they have run."""

from __future__ import annotations

from typing import Any

import torch

import sdaccel


def graphed(pipe: Any, **options: Any) -> Any:
    """The pipe with `cuda_graph`."""
    return sdaccel.accelerate(pipe, "none", cuda_graph=options or True)


def ran(pipe: Any) -> dict[str, int]:
    """The report's counts."""
    return dict(sdaccel.report(pipe)["cuda_graph"].ran)


def inputs(seed: int = 0, batch: int = 2, size: int = 8) -> tuple[torch.Tensor, ...]:
    """Latents, a timestep that takes no memory for each sample, and a text."""
    random = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, 4, size, size, generator=random)
    text = torch.randn(batch, 16, 32, generator=random)
    return sample, torch.tensor(100 + seed).expand(batch), text


@torch.no_grad()
def forward(pipe: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """What the UNet makes of these arguments."""
    return pipe.unet(*args, **kwargs).sample


def forwards(pipe: Any, count: int = 3, **kwargs: Any) -> list[torch.Tensor]:
    """What the UNet makes of the first `count` inputs."""
    return [forward(pipe, *inputs(seed, **kwargs)) for seed in range(count)]


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    """Whether all are equal, bit for bit."""
    return all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
