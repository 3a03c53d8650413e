"""Channels-last weights for convolutional nets.

A convolution library works on (N, H, W, C) inside; with weights in that order the activations stay
in it from the first convolution on, and no layer converts to and fro.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Effect, Pass

if TYPE_CHECKING:
    import torch

    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target


@dataclass(frozen=True)
class MemoryFormat(Pass):
    """Channels-last for the convolutions of denoisers; the VAE's are `vae`'s to decide."""

    name: ClassVar[str] = "memory_format"
    summary: ClassVar[str] = "weights of convolutions in channels-last order"
    effect: ClassVar[Effect] = Effect.EXACT
    order: ClassVar[int] = 30

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        for component, model in target.each(record, "denoiser"):
            with patch.scope(component.module):
                changed = to_channels_last(model, patch)
                if changed:
                    record.changed[f"{component.name} convolutions"] = changed
                    count_calls(component, patch, record)
                else:
                    record.refuse(component.name, "it has no convolution that would change")


def to_channels_last(model: Any, patch: Patch) -> int:
    """Reorder the convolution weights of `model`; returns how many have changed.

    The values stay what they are. 1x1 kernels look the same in both orders and are left alone.
    """
    kernels = list(_kernels(model))
    for kernel in kernels:
        patch.on_undo(_put_back(kernel, kernel.data.stride()))
        kernel.data = kernel.data.contiguous(memory_format=_channels_last(kernel))
    return len(kernels)


def is_channels_last(model: Any) -> bool:
    """Whether `model` has convolutions of pictures, and all are in channels-last order."""
    import torch

    seen = any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    return seen and not any(True for _ in _kernels(model))


def count_calls(component: Component, patch: Patch, record: PassRecord) -> None:
    """Count the calls of a component as runs of the pass of `record`."""

    def count(*_: Any) -> None:
        record.ran[f"{component.name} calls"] += 1

    patch.add_handle(component.entry.register_forward_pre_hook(count))


def _kernels(model: Any) -> Iterator[torch.Tensor]:
    """The convolution weights that are not in channels-last order, each once."""
    import torch

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
            kernel = module.weight
            if not kernel.is_contiguous(memory_format=_channels_last(kernel)):
                yield kernel


def _channels_last(kernel: torch.Tensor) -> torch.memory_format:
    import torch

    return torch.channels_last if kernel.dim() == 4 else torch.channels_last_3d


def _put_back(parameter: torch.Tensor, stride: tuple[int, ...]) -> Any:
    """The undo: the same values, wherever they now are, in the strides they had."""

    def undo() -> None:
        data = parameter.data
        parameter.data = data.new_empty_strided(data.shape, stride).copy_(data)

    return undo
