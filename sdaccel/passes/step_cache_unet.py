"""UNets: on a shallow step only the layers around an outer skip connection run.

A decoder's layer takes the skip connection that mirrors it. So with a depth of N the last N layers
of the decoder run, those of the encoder that feed them, and what would come from below is predicted
(with a depth of 1 and order 0 that is DeepCache, Ma et al. 2023). What is left out returns memory
that was never written, of the right size: nothing that runs reads it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..patch import Patch
    from .step_cache_paths import Path
    from .step_cache_state import Call, FeatureCache

Layer = list[Any]
"""A ResNet, and the attention or motion module behind it."""
_FEATURE, _SUPPLIER = "feature", "supplier"
_SAMPLERS = ("downsamplers", "upsamplers")


def is_unet(model: Any) -> bool:
    """Whether a model is made of lists of down and up blocks."""
    return all(_members(model, name) for name in ("down_blocks", "up_blocks"))


def unet_obstacle(model: Any, depth: int) -> str | None:
    """Why nothing can be left out of a UNet, in half a sentence, or None."""
    if not all(_members(each, "resnets") for each in (*model.down_blocks, *model.up_blocks)):
        return "its blocks are not made of ResNet layers"
    encoder = 1 + sum(len(_encoder_layers(each)) for each in model.down_blocks)
    decoder = sum(len(each.resnets) for each in model.up_blocks)
    if encoder != decoder:
        return "its down and up blocks don't mirror each other"
    if depth >= decoder:
        return f"it has {decoder} layers on each side, and depth must be smaller"
    return None


def skip_in_unet(model: Any, depth: int, cache: FeatureCache, patch: Patch) -> int:
    """Let shallow calls run the outer `depth` layers alone; returns how many modules they skip."""
    left_out = [*_inner_encoder(model, depth), *_members(model, "mid_block")]
    decoder, suppliers = _inner_decoder(model, depth)
    for module in [*left_out, *decoder]:
        patch.set(module, "forward", LeftOut(module, cache))
    for module in suppliers:
        patch.set(module, "forward", Supplier(module, cache))
    return len(left_out) + len(decoder) + len(suppliers)


@dataclass(frozen=True)
class Outline:
    """What a tensor was, but for its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Outline:
        """The outline of a tensor."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def blank(self) -> torch.Tensor:
        """A tensor like it whose memory was never written."""
        import torch

        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


class LeftOut:
    """Stands where a module's `forward` is looked up: no shallow call reads its result."""

    def __init__(self, module: torch.nn.Module, cache: FeatureCache) -> None:
        functools.update_wrapper(self, module.forward)
        self._stock: Callable[..., Any] = module.forward
        self._cache = cache

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        path = self._cache.path
        if path is not None:
            return self._traced(path, self._stock(*args, **kwargs))
        return self._run(args, kwargs)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import torch
        from torch.utils import _pytree

        call = self._cache.call
        if call is None:
            return self._stock(*args, **kwargs)
        outlines = call.stream.outlines
        if call.shallow and call.has(_FEATURE) and self in outlines:
            return _pytree.tree_map_only(Outline, self._instead(call), outlines[self])
        result = self._stock(*args, **kwargs)
        outlines[self] = _pytree.tree_map_only(torch.Tensor, Outline.of, result)
        self._supply(call, result)
        return result

    def _traced(self, path: Path, result: Any) -> Any:
        """What goes on to the next layer while a compiler traces."""
        return result

    def _instead(self, call: Call) -> Callable[[Outline], torch.Tensor]:
        """What takes the place of a tensor in the result."""
        return Outline.blank

    def _supply(self, call: Call, result: Any) -> None:
        """The module has run."""


class Supplier(LeftOut):
    """One that is left out just below the boundary; the last that runs supplies the feature."""

    def _traced(self, path: Path, result: Any) -> Any:
        if isinstance(result, tuple):
            return path.at(_FEATURE, result[0]), *result[1:]
        return path.at(_FEATURE, result)

    def _instead(self, call: Call) -> Callable[[Outline], torch.Tensor]:
        if call.stream.outlines[_SUPPLIER] is not self:
            return Outline.blank
        # a copy, since FreeU scales in place what comes from below
        return lambda _: call.predict(_FEATURE).clone()

    def _supply(self, call: Call, result: Any) -> None:
        feature = result[0] if isinstance(result, tuple) else result
        call.stream.outlines[_SUPPLIER] = self
        call.keep(_FEATURE, feature.clone())


def _inner_encoder(model: Any, depth: int) -> Iterator[Any]:
    """What no shallow call runs of the encoder: whole blocks where it is all of a block."""
    running = depth - 1
    for block in model.down_blocks:
        layers = _encoder_layers(block)
        if running <= 0:
            yield block
        else:
            yield from (module for layer in layers[running:] for module in layer)
        running -= len(layers)


def _inner_decoder(model: Any, depth: int) -> tuple[list[Any], list[Any]]:
    """What no shallow call runs of the decoder, and the modules that supply the feature."""
    running = depth
    for index in reversed(range(len(model.up_blocks))):
        layers = _layers(model.up_blocks[index])
        if running < len(layers):
            below = layers[: len(layers) - running]
            return list(model.up_blocks[:index]), [each for layer in below for each in layer]
        running -= len(layers)
        if running == 0:
            return list(model.up_blocks[: index - 1]), [model.up_blocks[index - 1]]
    raise AssertionError("depth is smaller than the number of layers")


def _encoder_layers(block: Any) -> list[Layer]:
    """The layers of a down block that make a skip connection each: its own, and a downsampler."""
    downsamplers = _members(block, "downsamplers")
    return [*_layers(block), *([downsamplers] if downsamplers else [])]


def _layers(block: Any) -> list[Layer]:
    """A block's lists of modules side by side: its ResNets, attention, motion modules."""
    count = len(block.resnets)
    names = (name for name, _ in block.named_children() if name not in _SAMPLERS)
    lists = [each for each in (_members(block, name) for name in names) if len(each) == count]
    return [list(layer) for layer in zip(*lists, strict=True)]


def _members(owner: Any, name: str) -> list[Any]:
    """The modules of a list, or the module, of that name; none where there is none."""
    import torch

    found = getattr(owner, name, None)
    if isinstance(found, torch.nn.ModuleList):
        return list(found)
    return [found] if isinstance(found, torch.nn.Module) else []
