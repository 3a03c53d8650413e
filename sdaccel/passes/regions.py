"""Which parts of a model repeat, and so are worth compiling once for all of them.

diffusers names such parts for some models (`_repeated_blocks`), and for SD3, PixArt, Sana,
CogVideoX and others for none, and leaves a UNet's ResNets out. They show in any model's structure:
they are what its lists of modules hold.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def repeated_blocks(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The blocks of a model, by name: what stands in its `ModuleList`s, outermost first.

    A member that holds a list of blocks itself (a UNet's level) is a container: its own blocks
    count, not the container. The result never holds a block inside another.
    """
    return list(_walk(model, "", False))


def signature(module: torch.nn.Module) -> Hashable:
    """Equal for modules that the same code can serve: same classes, same layout of weights."""
    classes = tuple(type(each) for each in module.modules())
    weights = tuple(
        (name, tuple(each.shape), each.stride(), each.dtype)
        for name, each in module.named_parameters()
    )
    return classes, weights


def shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    """The shapes of the tensors among the arguments of a call."""
    values = [*args, *kwargs.values()]
    return tuple(tuple(each.shape) if hasattr(each, "shape") else None for each in values)


def _walk(
    module: torch.nn.Module, prefix: str, in_list: bool
) -> Iterator[tuple[str, torch.nn.Module]]:
    if in_list and _is_block(module) and not _holds_blocks(module):
        yield prefix, module
        return
    listed = _is_list(module)
    for name, child in module.named_children():
        yield from _walk(child, f"{prefix}.{name}" if prefix else name, listed)


def _holds_blocks(module: torch.nn.Module) -> bool:
    lists = [child for child in module.children() if _is_list(child)]
    return any(_is_block(each) for members in lists for each in members.children())


def _is_block(module: torch.nn.Module) -> bool:
    """More than one layer: a lone linear or convolution has nothing to be fused with.

    Down- and upsamplers count, as a convolution with a resize or padding.
    """
    if not any(True for _ in module.children()) or _is_list(module):
        return False
    with_weights = sum(bool(each._parameters) for each in module.modules())
    return with_weights > 1 or _is_sampler(module)


def _is_sampler(module: torch.nn.Module) -> bool:
    return type(module).__name__.startswith(("Downsample", "Upsample"))


def _is_list(module: torch.nn.Module) -> bool:
    import torch

    return isinstance(module, torch.nn.ModuleList)
