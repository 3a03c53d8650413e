"""Tiny random instances of the model families that diffusers knows, with inputs that match.

An instance has one or two layers of each kind and runs in milliseconds on a CPU. Its weights are
drawn so that each scale, bias and gate counts (`architectures.draw_weights`), and its inputs are a
batch of two unlike samples, text of unequal length where the model takes a mask: a pass that
forgets a term, or mixes up samples, changes the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .architectures import HOST, Place, build
from .errors import BenchmarkError

if TYPE_CHECKING:
    import torch

TEXT, POOLED, CHANNELS = 24, 20, 4
"""Widths of a tiny family's text, of its pooled text and of its latents."""
_GAIN = 3**0.5
"""Keeps the variance, layer for layer, so that text has its share in the picture."""


@dataclass(frozen=True)
class Size:
    """How large an input is: a feature map's height and width, frames of video, tokens of text.

    `text` and `pooled` are the widths of the text's embeddings, `channels` the latents', and `head`
    an attention head's, for the rotations that a pipeline makes.
    """

    height: int
    width: int
    frames: int
    tokens: int
    batch: int = 2
    text: int = TEXT
    pooled: int = POOLED
    channels: int = CHANNELS
    head: int = 16

    def patches(self, patch: int = 2) -> int:
        """Tokens of one frame, cut into squares."""
        return (self.height // patch) * (self.width // patch)


SIZES = (Size(8, 8, 2, 5), Size(8, 12, 2, 7))
"""Two sizes of every family's input; the numbers of tokens are no powers of two."""


@dataclass
class Draw:
    """Random inputs in a dtype: `draw(2, 3)` is normally distributed, (2, 3)."""

    dtype: torch.dtype
    generator: torch.Generator

    def __call__(self, *shape: int) -> torch.Tensor:
        import torch

        return torch.randn(*shape, generator=self.generator).to(self.dtype)


Inputs = Callable[[Draw, Size], dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """A model of diffusers by the name it is known by, its class, and how to build and call it.

    `inputs` makes the arguments of a forward; `part` says what a pipeline uses the model as.
    """

    name: str
    model: str
    config: Mapping[str, Any]
    inputs: Inputs
    part: Literal["denoiser", "vae"] = "denoiser"

    def build(self, seed: int = 0, place: Place = HOST) -> torch.nn.Module:
        """The model in evaluation mode, made at a place, with the same weights for a seed."""
        return build({"class": self.model, **self.config}, seed, _GAIN, place)

    def draw(self, size: Size, seed: int, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of a forward, on the CPU, the same for a seed."""
        import torch

        return self.inputs(Draw(dtype, torch.Generator().manual_seed(seed)), size)


def cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Weights in `dtype`, in place, as `from_pretrained` casts: some modules stay in fp32."""
    kept = getattr(model, "_keep_in_fp32_modules", None) or ()
    stored = model.state_dict(keep_vars=True)
    for name, tensor in stored.items():
        if tensor.is_floating_point() and not any(part in kept for part in name.split(".")):
            tensor.data = tensor.data.to(dtype)


def forward(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """All that a model's forward returns, as one row of numbers; no gradients."""
    import torch
    from torch.utils import _pytree

    with torch.no_grad():
        leaves = _pytree.tree_leaves(model(**inputs, return_dict=False))
    return torch.cat([each.flatten() for each in leaves if isinstance(each, torch.Tensor)])


def families(names: Sequence[str] = ()) -> Iterator[Family]:
    """The families of these names in order, or all of them.

    Raises `BenchmarkError` for a name that no family has.
    """
    from . import families_cross, families_joint, families_unet, families_video

    known = {
        each.name: each
        for each in (
            *families_unet.FAMILIES,
            *families_joint.FAMILIES,
            *families_cross.FAMILIES,
            *families_video.FAMILIES,
        )
    }
    for name in names or known:
        if name not in known:
            raise BenchmarkError(f"There is no family '{name}': choose from {', '.join(known)}.")
        yield known[name]


def timesteps(
    size: Size, dtype: torch.dtype | None = None, largest: float = 1000.0
) -> torch.Tensor:
    """A timestep for each sample, no two alike; whole numbers where no dtype is given."""
    import torch

    steps = torch.linspace(0.731, 0.204, size.batch) * largest
    return steps.long() if dtype is None else steps.to(dtype)


def mask(size: Size, tokens: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Which of (batch, tokens) of text count: the last sample's text is two tokens shorter."""
    import torch

    lengths = torch.full((size.batch,), tokens)
    lengths[-1] -= 2
    counts = torch.arange(tokens)[None] < lengths[:, None]
    return counts if dtype is None else counts.to(dtype)


def grid_ids(height: int, width: int, columns: int = 3) -> torch.Tensor:
    """Positions of an image's tokens (height * width, columns): row and column in 1 and 2."""
    import torch

    ids = torch.zeros(height, width, columns)
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)[None, :]
    return ids.flatten(0, 1)
