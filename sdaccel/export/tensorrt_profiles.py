"""Optimisation profiles: which shapes an engine takes, from the sizes that a user names.

One profile a size, as narrow as the size allows: only the number of samples and of text tokens may
change within it. An engine of several narrow profiles is faster at each size than one of a profile
that spans them all, and has its weights once.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from .examples import Draw, Example, Extent, example_of, settings_of

if TYPE_CHECKING:
    import torch

    from .manifest import ComponentEntry, TensorInfo

_SIZE = re.compile(r"(\d{1,6})(?:[xX](\d{1,6})(?:[xX](\d{1,6}))?)?")
_TEXT = 77
"""Tokens of CLIP's text encoders, where a pipe says nothing else."""
_ENDLESS = 100_000
"""What tokenizers without a limit give as theirs is far above."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """A picture's width and height in pixels, a clip's frames."""

    width: int
    height: int
    frames: int = 1

    @classmethod
    def parse(cls, text: str) -> Size:
        """ "512", "768x512", or "832x480x81" of a clip; `ValueError` for anything else."""
        found = _SIZE.fullmatch(str(text).strip())
        numbers = [int(each) for each in found.groups() if each] if found else []
        if not numbers or min(numbers) < 1:
            raise ValueError(
                f"a size is WIDTHxHEIGHT, or WIDTHxHEIGHTxFRAMES, such as 768x512, not {text!r}"
            )
        return cls(*numbers) if len(numbers) > 1 else cls(numbers[0], numbers[0])

    def __str__(self) -> str:
        frames = f"x{self.frames}" if self.frames > 1 else ""
        return f"{self.width}x{self.height}{frames}"


@dataclass(frozen=True)
class Request:
    """What a user wants to draw: sizes, pictures at once, and text tokens at most."""

    sizes: tuple[Size, ...]
    batch: int
    tokens: int

    @classmethod
    def of(
        cls, pipe: Any, sizes: Sequence[str] | None, batch: int = 1, tokens: int | None = None
    ) -> Request:
        """With the pipe's own size and length of text for what is not named.

        Raises `ExportError` where the pipe has no size of its own.
        """
        chosen = tuple(map(Size.parse, sizes)) if sizes else (_own_size(pipe),)
        return cls(tuple(dict.fromkeys(chosen)), batch, tokens or _own_tokens(pipe))


@dataclass(frozen=True)
class Profile:
    """For each input of a graph the smallest, usual and largest shape, or a number's one value."""

    name: str
    shapes: Mapping[str, tuple[Shape, Shape, Shape]]
    values: Mapping[str, int]

    def refusal(self, given: Mapping[str, torch.Tensor]) -> str | None:
        """Which input does not fit, as a clause; None where all do. Numbers lie on the CPU."""
        for name, tensor in given.items():
            smallest, _, largest = self.shapes[name]
            shape, value = tuple(tensor.shape), self.values.get(name)
            if not all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True)):
                return f"'{name}' is {_told(shape)}, not {_span(smallest, largest)}"
            if value is not None and int(tensor) != value:
                return f"'{name}' is {int(tensor)}, not {value}"
        return None


def profiles_of(
    name: str, module: torch.nn.Module, entry: ComponentEntry, pipe: Any, request: Request
) -> tuple[Profile, ...]:
    """The profiles of a component of this name, one a size; alike ones are one.

    Raises `ExportError` for a class whose arguments are not known, or a size that it can't have.
    """
    example = example_of(name, module)
    if example is None:
        raise ExportError(
            f"No engine can be built of {name} ({type(module).__name__}): what its forward takes "
            "is not known. Use the plan 'onnxruntime'."
        )
    found: dict[Any, Profile] = {}
    for size in request.sizes:
        ends = [_extent(name, pipe, size, *each) for each in _ends(name, module, request)]
        made = _profile(str(size), entry, [_shapes(example, module, each) for each in ends])
        found.setdefault(str([made.shapes, made.values]), made)
    return tuple(found.values())


def _ends(name: str, module: torch.nn.Module, request: Request) -> list[tuple[int, int]]:
    """Samples and tokens: the fewest, the usual and the most. Guidance doubles a denoiser's."""
    plain = name.startswith(("vae_", "text_encoder"))
    batch = request.batch if plain else 2 * request.batch
    # CLIP reads no more than it has positions for, where a T5 beside it reads on
    positions = settings_of(module).get("max_position_embeddings") if plain else None
    most = (batch, min(request.tokens, positions or request.tokens))
    return [(1, 1), most, most]


def _extent(name: str, pipe: Any, size: Size, batch: int, tokens: int) -> Extent:
    if name == "vae_encoder":
        return Extent(batch, size.height, size.width, size.frames, tokens)
    space, time = _scale(pipe), _time_scale(pipe)
    if size.width % space or size.height % space:
        raise ExportError(
            f"This pipe draws no pictures of {size}: width and height are multiples of {space}."
        )
    frames = (size.frames - 1) // time + 1
    return Extent(batch, size.height // space, size.width // space, frames, tokens)


def _scale(pipe: Any) -> int:
    """Pixels of a latent, as an example counts latents: a token of LTX counts as two by two."""
    tokens = getattr(pipe, "vae_spatial_compression_ratio", None)
    if tokens:
        return max(1, int(tokens) // 2)
    names = ("vae_scale_factor_spatial", "vae_scale_factor")
    return int(next((getattr(pipe, each) for each in names if getattr(pipe, each, None)), 8))


def _time_scale(pipe: Any) -> int:
    names = ("vae_temporal_compression_ratio", "vae_scale_factor_temporal")
    return int(next((getattr(pipe, each) for each in names if getattr(pipe, each, None)), 1))


def _own_size(pipe: Any) -> Size:
    defaults = _defaults(pipe)
    width, height = defaults("width"), defaults("height")
    side = getattr(pipe, "default_sample_size", None) or _sample_size(pipe)
    if not (width and height) and isinstance(side, int):
        width = height = side * _scale(pipe)
    if not (width and height):
        raise ExportError(
            f"A {type(pipe).__name__} has no size of its own: name sizes, such as ['1024x1024']."
        )
    return Size(width, height, defaults("num_frames") or 1)


def _sample_size(pipe: Any) -> Any:
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    return getattr(getattr(denoiser, "config", None), "sample_size", None)


def _own_tokens(pipe: Any) -> int:
    """How long the text is that a pipe's denoiser reads, at most."""
    asked = _defaults(pipe)("max_sequence_length")
    if asked and getattr(pipe, "text_encoder_3", None) is not None:
        return asked + _TEXT  # Stable Diffusion 3: CLIP's and T5's, one behind the other
    limit = getattr(getattr(pipe, "tokenizer", None), "model_max_length", None)
    return asked or (limit if isinstance(limit, int) and limit < _ENDLESS else _TEXT)


def _defaults(pipe: Any) -> Callable[[str], int | None]:
    """The whole number that an argument of a pipe's call is by default."""
    parameters = inspect.signature(type(pipe).__call__).parameters

    def default(name: str) -> int | None:
        found = parameters[name].default if name in parameters else None
        return found if isinstance(found, int) else None

    return default


def _shapes(example: Example, module: torch.nn.Module, extent: Extent) -> dict[str, Any]:
    """By the place of each argument: a tensor's shape, or a number."""
    import torch

    from .capture import paths

    made = example.make(settings_of(module), Draw(torch.float32), extent)
    return {
        place: tuple(value.shape) if isinstance(value, torch.Tensor) else value
        for place, value in paths(made)
    }


def _profile(name: str, entry: ComponentEntry, ends: Sequence[Mapping[str, Any]]) -> Profile:
    shapes: dict[str, tuple[Shape, Shape, Shape]] = {}
    values: dict[str, int] = {}
    for info in entry.inputs:
        three = [each.get(info.name, ()) for each in ends]
        if isinstance(three[1], int):
            values[info.name] = three[1]
            three = [()] * 3
        smallest, usual, largest = (_held(info, each) for each in three)
        shapes[info.name] = (smallest, usual, largest)
    return Profile(name, shapes, values)


def _held(info: TensorInfo, shape: Sequence[int]) -> Shape:
    """A shape with the dimensions that the graph leaves no choice of."""
    if len(shape) != len(info.shape):
        raise ExportError(
            f"The graph's '{info.name}' has {len(info.shape)} dimensions, and a call gives it "
            f"{len(shape)}: export the pipeline again."
        )
    return tuple(
        given if isinstance(given, int) else size
        for given, size in zip(info.shape, shape, strict=True)
    )


def _told(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _span(smallest: Shape, largest: Shape) -> str:
    both = dict.fromkeys((_told(smallest), _told(largest)))
    return " to ".join(both)


def joined(profiles: Sequence[Profile]) -> str:
    """Their sizes, for a sentence."""
    return ", ".join(each.name for each in profiles)
