"""Which modules of a pipe the models of an export stand for.

A VAE is exported in two halves, with the convolutions that its `encode` and `decode` put around
them: a session takes the encoder's or decoder's place, and that convolution passes its input on. So
hooks, slicing and tiling go on working.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import ExportError

if TYPE_CHECKING:
    import torch

    from ..target import Component
    from .manifest import ComponentEntry, Manifest

HALVES = {"vae_encoder": ("encoder", "quant_conv"), "vae_decoder": ("decoder", "post_quant_conv")}


@dataclass(frozen=True)
class Part:
    """One exported model and the module whose forward it computes.

    `owner` is the component that the module is, or is a half of; `bypassed` the module whose work
    the graph does as well, and that passes its input on.
    """

    name: str
    entry: ComponentEntry
    module: torch.nn.Module
    owner: torch.nn.Module
    bypassed: torch.nn.Module | None = None

    @property
    def by_torch(self) -> Callable[..., Any]:
        """What the graph computes, by the modules' own forwards."""
        forward: Callable[..., Any] = _own_forward(self.module)
        if self.bypassed is None:
            return forward
        convolution = _own_forward(self.bypassed)
        if self.name == "vae_encoder":
            return lambda *args, **more: convolution(forward(*args, **more))
        return lambda latents, *args, **more: forward(convolution(latents), *args, **more)


def parts_of(component: Component, manifest: Manifest) -> Iterator[Part]:
    """What of a component an export has; nothing where it has nothing.

    Raises `ExportError` where it was made of another class.
    """
    if component.kind == "vae":
        yield from _halves(component, manifest)
    elif component.name in manifest.components:
        entry = manifest.component(component.name)
        _check_class(component, entry)
        yield Part(component.name, entry, component.module, component.module)


def _own_forward(module: Any) -> Any:
    return type(module).forward.__get__(module)


def _halves(component: Component, manifest: Manifest) -> Iterator[Part]:
    for name, (half, convolution) in HALVES.items():
        module: Any = getattr(component.module, half, None)
        if component.name != "vae" or name not in manifest.components or module is None:
            continue
        if keeps_frames(component.module):
            continue
        entry = manifest.component(name)
        _check_class(component, entry)
        first = next(iter(inspect.signature(_own_forward(module)).parameters))
        mapped = replace(entry, arguments={info.name: first for info in entry.inputs})
        bypassed = getattr(component.module, convolution, None)
        yield Part(name, mapped, module, component.module, bypassed)


def keeps_frames(vae: torch.nn.Module) -> bool:
    """Whether the halves of a VAE are called for some frames at a time, and remember the last."""
    return hasattr(vae, "clear_cache")


def _check_class(component: Component, entry: ComponentEntry) -> None:
    kind = type(component.module).__name__
    if kind != entry.class_name:
        raise ExportError(
            f"The folder's '{component.name}' is a {entry.class_name}, and this pipe's a {kind}: "
            "name the folder that was exported from this pipeline."
        )
