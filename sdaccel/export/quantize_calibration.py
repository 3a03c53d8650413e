"""What goes through a denoiser's layers while it draws, and what int8 makes of each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ExportError

if TYPE_CHECKING:
    import torch

_SAMPLES = 2048
"""Values of a tensor that are looked at per call, to choose where to clip."""
_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


@dataclass(frozen=True)
class Range:
    """The values of a tensor that 0..255 stand for: (q - zero) * scale."""

    scale: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> Range:
        """The range from `low` to `high`, and zero, which always has a code of its own."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-12) / 255
        return cls(scale, min(255, max(0, round(-low / scale))))

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        """Values as they come back from int8."""
        codes = (values / self.scale).round() + self.zero
        return (codes.clamp(0, 255) - self.zero) * self.scale


@dataclass(frozen=True)
class LayerRanges:
    """The ranges of what goes into a layer, and of what comes out."""

    input: Range
    output: Range


@dataclass
class _Observed:
    """The extremes of one tensor over all calls, and a sample of its values."""

    low: float = math.inf
    high: float = -math.inf
    samples: list[torch.Tensor] = field(default_factory=list)

    def note(self, tensor: torch.Tensor) -> None:
        values = tensor.detach().float().flatten()
        low, high = values.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        self.samples.append(values[:: max(1, values.numel() // _SAMPLES)].clone())

    def range(self) -> Range:
        """The range whose rounding and clipping moves the sample least, in squares."""
        import torch

        values = torch.cat(self.samples)
        choices = [Range.of(self.low * each, self.high * each) for each in _CLIPS]
        return min(choices, key=lambda each: float((each.rounded(values) - values).square().sum()))


def layers_in(module: torch.nn.Module) -> dict[str, Any]:
    """Its convolutions and linear layers, by their paths."""
    import torch

    kinds = (torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
    return {name: each for name, each in module.named_modules() if isinstance(each, kinds)}


def observe(
    module: torch.nn.Module, draw: Callable[[], object]
) -> tuple[dict[str, LayerRanges], list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """The ranges of each layer while `draw` runs, and the arguments of the module's calls.

    Raises `ExportError` where `draw` never calls the module.
    """
    inputs = {name: _Observed() for name in layers_in(module)}
    outputs = {name: _Observed() for name in inputs}
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple[Any, ...], output: Any) -> None:
            inputs[name].note(args[0])
            outputs[name].note(output)

        return hook

    def remember(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    handles = [each.register_forward_hook(note(name)) for name, each in layers_in(module).items()]
    handles.append(module.register_forward_pre_hook(remember, with_kwargs=True))
    try:
        draw()
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        raise ExportError("Nothing was drawn: calibrate with a function that calls the pipe.")
    seen = [name for name, each in inputs.items() if each.samples]
    return {name: LayerRanges(inputs[name].range(), outputs[name].range()) for name in seen}, calls


def sensitivities(
    module: torch.nn.Module,
    ranges: Mapping[str, LayerRanges],
    calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
) -> dict[str, float]:
    """How far the module's output moves (relative L2) when one layer alone is in int8."""
    import torch

    layers = layers_in(module)
    with torch.no_grad():
        truths = [_output(module(*args, **kwargs)) for args, kwargs in calls]
        found = {}
        for name, each in ranges.items():
            with in_int8({name: layers[name]}, {name: each}):
                moved = [_output(module(*args, **kwargs)) for args, kwargs in calls]
            found[name] = _distance(moved, truths)
    return found


def to_leave_out(found: Mapping[str, float], tolerance: float) -> set[str]:
    """The fewest layers without which the rest moves the output by at most `tolerance`.

    Errors of layers are taken to be independent: their squares add up.
    """
    left, out = sum(each**2 for each in found.values()), set()
    for name in sorted(found, key=lambda each: found[each], reverse=True):
        if left <= tolerance**2:
            break
        out.add(name)
        left -= found[name] ** 2
    return out


@contextmanager
def in_int8(layers: Mapping[str, Any], ranges: Mapping[str, LayerRanges]) -> Iterator[None]:
    """For a while, layers compute with input, weights and a convolution's output in int8."""
    handles = [
        layer.register_forward_hook(_rounding(ranges[name])) for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rounding(ranges: LayerRanges) -> Callable[..., Any]:
    def hook(layer: Any, args: tuple[Any, ...], _: Any) -> Any:
        import torch

        weight = _rounded_weight(layer.weight)
        values = ranges.input.rounded(args[0])
        if isinstance(layer, torch.nn.Linear):
            return torch.nn.functional.linear(values, weight, layer.bias)
        return ranges.output.rounded(layer._conv_forward(values, weight, layer.bias))

    return hook


def _rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    scale = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    scale = scale.view(-1, *[1] * (weight.dim() - 1))
    return (weight / scale).round().clamp(-127, 127) * scale


def _output(output: Any) -> torch.Tensor:
    found: torch.Tensor = output[0]
    return found


def _distance(found: Sequence[torch.Tensor], truths: Sequence[torch.Tensor]) -> float:
    moved = sum(float((a - b).square().sum()) for a, b in zip(found, truths, strict=True))
    norm = sum(float(each.square().sum()) for each in truths)
    return math.sqrt(moved / max(norm, 1e-30))
