"""What an op accepts, checked before anything is computed; each message says what would do."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import ArgumentError

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def check_float(**tensors: torch.Tensor | None) -> None:
    """Raise `ArgumentError` for a tensor that isn't fp16, bf16 or fp32."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in FLOATS:
            raise ArgumentError(f"{name} is fp16, bf16 or fp32, not {_short(tensor.dtype)}")


def check_shape(shape: Sequence[int], **tensors: torch.Tensor | None) -> None:
    """Raise `ArgumentError` for a tensor of another shape; -1 stands for any size."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        fits = len(shape) == tensor.dim() and all(
            wanted in (-1, size) for wanted, size in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise ArgumentError(
                f"{name} has shape {list(tensor.shape)}; {list(shape)} was expected"
            )


def check_device(**tensors: torch.Tensor | None) -> None:
    """Raise `ArgumentError` for a tensor that lies elsewhere than the first."""
    given = [(name, each) for name, each in tensors.items() if each is not None]
    first, tensor = given[0]
    for name, each in given[1:]:
        if each.device != tensor.device:
            raise ArgumentError(f"{name} is on {each.device} and {first} on {tensor.device}")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise `ArgumentError` for a value that is none of the choices."""
    if value not in choices:
        accepted = ", ".join(repr(each) for each in choices)
        raise ArgumentError(f"{name} is one of {accepted}, not {value!r}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
