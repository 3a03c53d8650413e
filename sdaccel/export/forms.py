"""What of a component becomes a graph: modules that take one dictionary and return another.

The dictionary holds arguments as a pipeline passes them, so the inputs of every graph are named
alike; what is returned is named by its place in the module's own output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..patch import Patch

Outputs = dict[str, torch.Tensor]


class Form(torch.nn.Module):
    """A module whose forward can be traced as it is."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def prepare(self, patch: Patch) -> None:
        """Change what stands in the way of tracing; `patch` takes it back."""

    def forward(self, arguments: Mapping[str, Any]) -> Outputs:
        """The module's output, flat."""
        return dict(named(self.module(**arguments)))

    def stock(self, arguments: Mapping[str, Any]) -> Outputs:
        """The same by the module's own forward, where this form has another."""
        return self(arguments)  # type: ignore[no-any-return]


class TextEncoder(Form):
    """A text encoder, with the output of each layer where the text encoder is a language model."""

    def forward(self, arguments: Mapping[str, Any]) -> Outputs:
        """Hidden states are named by their layer, from 0, the embeddings."""
        layers = not type(self.module).__name__.endswith("T5EncoderModel")
        return dict(named(self.module(**arguments, output_hidden_states=layers)))


class VaeEncoder(Form):
    """`encode` of a VAE, up to its distribution's mean and logarithm of the variance."""

    def prepare(self, patch: Patch) -> None:
        """Tiles and slices are loops that depend on the size."""
        whole(self.module, patch)

    def forward(self, arguments: Mapping[str, Any]) -> Outputs:
        """`moments`, (batch, 2 * channels, ...), or `latent` of a deterministic autoencoder."""
        encode: Any = self.module.encode
        encoded = encode(**arguments)
        if "latent_dist" in encoded:
            return {"moments": encoded.latent_dist.parameters}
        return {"latent": encoded.latent}


class VaeDecoder(Form):
    """`decode` of a VAE."""

    def prepare(self, patch: Patch) -> None:
        """Tiles and slices are loops that depend on the size."""
        whole(self.module, patch)

    def forward(self, arguments: Mapping[str, Any]) -> Outputs:
        """`sample`, in pixels."""
        decode: Any = self.module.decode
        return {"sample": decode(**arguments).sample}


def whole(vae: Any, patch: Patch) -> None:
    """Let a VAE work on a whole picture and a whole batch."""
    for name in ("use_tiling", "use_slicing"):
        if getattr(vae, name, False):
            patch.set(vae, name, False)


def named(output: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of an output by their place, keys and indices joined by dots."""
    if isinstance(output, torch.Tensor):
        yield prefix, output
        return
    items = output.items() if isinstance(output, Mapping) else enumerate(output or ())
    for key, value in items:
        yield from named(value, f"{prefix}.{key}" if prefix else str(key))


def form_of(name: str, module: torch.nn.Module) -> Form:
    """The form of an exported component of this name."""
    from .qwen_image import QwenImage
    from .wan_vae import WanDecoder, WanEncoder
    from .z_image import ZImage

    kinds: Mapping[str, type[Form]] = {
        "AutoencoderKLWan vae_encoder": WanEncoder,
        "AutoencoderKLWan vae_decoder": WanDecoder,
        "vae_encoder": VaeEncoder,
        "vae_decoder": VaeDecoder,
        "QwenImageTransformer2DModel": QwenImage,
        "ZImageTransformer2DModel": ZImage,
    }
    model = type(module).__name__
    kind = kinds.get(f"{model} {name}") or kinds.get(name) or kinds.get(model)
    if kind is None:
        kind = TextEncoder if name.startswith("text_encoder") else Form
    return kind(module)
