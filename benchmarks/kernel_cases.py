"""What the kernels' benchmark is made of: cases, the families they belong to, and who competes.

A family is an op: how its inputs are drawn, how sdaccel.kernels is called, and which kernels of
torch or of other packages do the same. A case is a place in a model that asks for it: the sizes
there, and the lines that diffusers computes it by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from .errors import BenchmarkError, Skip
from .kernel_rows import INDUCTOR, Target

Inputs = dict[str, Any]
Variant = Callable[..., Any]
"""Takes a case's inputs by name; returns a tensor or several."""

_QUICK = {
    "batch": 1,
    "tokens": 32,
    "text": 16,
    "channels": 64,
    "wide": 64,
    "heads": 2,
    "height": 8,
    "width": 8,
    "frames": 2,
}
"""The largest sizes of `--quick`; head dimensions stay as they are."""

MEMORY_TARGETS = (Target(0.85, "copy"), Target(1.0, (INDUCTOR,)))
"""Of ops that memory bounds, at the sizes of FLUX and SDXL."""


@dataclass
class Draw:
    """Draws inputs on a device: the same for a seed, normally distributed, in `dtype` unless told.

    On a GPU zeros would run faster than data.
    """

    device: torch.device
    dtype: torch.dtype
    seed: int = 0

    def __post_init__(self) -> None:
        self._generator = torch.Generator(self.device).manual_seed(self.seed)

    def __call__(
        self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Values of standard deviation `scale`."""
        values = torch.randn(*shape, device=self.device, generator=self._generator)
        return values.mul_(scale).to(dtype or self.dtype)

    def weight(self, outputs: int, inputs: int) -> torch.Tensor:
        """A linear layer's weight (outputs, inputs): what goes through it keeps its variance."""
        return self(outputs, inputs, scale=inputs**-0.5)

    def scales(self, channels: int) -> torch.Tensor:
        """A norm's weight (channels,): near 1, but not there."""
        return (1 + self(channels, scale=0.1, dtype=torch.float32)).to(self.dtype)

    def mask(self, *shape: int, share: float) -> torch.Tensor:
        """True for this share of the places, everywhere else False."""
        return torch.rand(*shape, device=self.device, generator=self._generator) < share


@dataclass(frozen=True)
class Case:
    """A place in a model: its `sizes` by name, `options` of the inputs, and diffusers' lines."""

    model: str
    what: str
    sizes: Mapping[str, int]
    stock: Variant
    options: Mapping[str, Any] = field(default_factory=dict)

    def sizes_for(self, quick: bool) -> dict[str, int]:
        """The sizes, or the small ones of `--quick`."""
        if not quick:
            return dict(self.sizes)
        return {name: min(size, _QUICK.get(name, size)) for name, size in self.sizes.items()}


def tokens_case(
    model: str, what: str, batch: int, tokens: int, channels: int, stock: Variant, **options: Any
) -> Case:
    """A case over tokens: (batch, tokens, channels)."""
    sizes = {"batch": batch, "tokens": tokens, "channels": channels}
    return Case(model, what, sizes, stock, options)


def _none() -> dict[str, Rival]:
    return {}


def _memory_targets(case: Case) -> tuple[Target, ...]:
    return MEMORY_TARGETS if case.model in ("FLUX", "SDXL") else MEMORY_TARGETS[1:]


@dataclass(frozen=True)
class Rival:
    """Somebody else's kernel: its kind, what it does to the result, and how to open it.

    `open` gets the case's inputs and gives what to call; it raises `Skip` where it has no place.
    """

    kind: str
    open: Callable[[Inputs], Variant]
    effect: str = "exact"


@dataclass(frozen=True)
class Family:
    """An op of sdaccel.kernels and all that is needed to time it.

    `kernel` and `cost` get the op's module and the inputs by name. `truth` computes in fp32 or
    more from inputs in fp32; None: the case's own lines. `bound` is "memory" or "compute".
    """

    op: str
    module: str
    bound: str
    cases: tuple[Case, ...]
    inputs: Callable[..., Inputs]
    kernel: Callable[..., Any]
    cost: Callable[..., Any]
    rivals: Callable[[], Mapping[str, Rival]] = _none
    targets: Callable[[Case], tuple[Target, ...]] = _memory_targets
    truth: Variant | None = None
    effect: str = "exact"

    def load(self) -> ModuleType:
        """The op's module; raises `Skip` where this version of sdaccel has none."""
        try:
            return import_module(f"sdaccel.kernels.{self.module}")
        except ModuleNotFoundError as error:
            raise Skip(f"This version has no sdaccel.kernels.{self.module}.") from error

    def kernel_variant(self) -> Variant:
        """Our own kernel, as a function of the inputs alone."""
        module = self.load()
        return lambda **inputs: self.kernel(module, **inputs)


def package(name: str) -> ModuleType:
    """Another's package; raises `Skip` where it isn't installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise Skip(f"{name} is not installed.") from error


def families() -> tuple[Family, ...]:
    """All ops, in the order of the report."""
    from . import (
        kernel_attention,
        kernel_elementwise,
        kernel_groups,
        kernel_heads,
        kernel_linear,
        kernel_norms,
    )

    return (
        *kernel_norms.FAMILIES,
        *kernel_groups.FAMILIES,
        *kernel_heads.FAMILIES,
        *kernel_elementwise.FAMILIES,
        *kernel_attention.FAMILIES,
        *kernel_linear.FAMILIES,
    )


def chosen(ops: list[str] | None, models: list[str] | None) -> Iterator[tuple[Family, Case]]:
    """The cases of these ops and models (None: all); raises `BenchmarkError` for unknown ones."""
    known = families()
    _check("op", ops, [family.op for family in known])
    _check("model", models, sorted({case.model for family in known for case in family.cases}))
    wanted = [each.lower() for each in models] if models else None
    for family in known:
        for case in family.cases:
            if (not ops or family.op in ops) and (not wanted or case.model.lower() in wanted):
                yield family, case


def _check(kind: str, given: list[str] | None, known: list[str]) -> None:
    lower = {each.lower() for each in known}
    for name in given or ():
        if name.lower() not in lower:
            raise BenchmarkError(f"There is no {kind} '{name}': choose from {', '.join(known)}.")
