"""What an op costs at least: the bytes that must cross the memory bus, and the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Cost:
    """Bytes read and written once each, and floating point operations."""

    bytes: int
    flops: int


def size(*tensors: torch.Tensor | None) -> int:
    """The bytes that these tensors hold; views with zero strides count what they really hold."""
    return sum(
        each.element_size() * _distinct(each) for each in tensors if isinstance(each, torch.Tensor)
    )


def _distinct(tensor: torch.Tensor) -> int:
    found = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found *= length if stride or not length else 1
    return found
