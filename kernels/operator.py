"""How a kernel becomes an operator of torch, who computes it, and how often it really ran.

On a GPU the Triton kernel computes; on a CPU the plain-torch reference does, or machine code of the
op's own, or Triton's interpreter where TRITON_INTERPRET=1 is set. What the kernel can't serve, the
reference takes, and the reason is kept: a chip that is too old, an input beyond the limits, a
failed compilation.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import SdaccelWarning
from .language import interpreted, missing

_OLDEST_CHIP = (8, 0)
_LIBRARY = torch.library.Library("sdaccel", "FRAGMENT")


class UnsupportedError(Exception):
    """A kernel's launch refuses an input that is right but beyond its limits; says which."""


@dataclass
class Operator:
    """`torch.ops.sdaccel.<name>`: its launch, its reference, its fake, and what has run.

    `schema` is torch's: "(Tensor x, float eps) -> Tensor". `launch`, `reference` and `fake` take
    the schema's arguments by position, and so does `native`: machine code for a CPU, which raises
    `UnsupportedError` for what it leaves to the reference. `runs` counts calls by who computed them
    ("kernel", "native", "reference"), `reasons` those that neither kernel could take, by reason.
    """

    name: str
    schema: str
    launch: Callable[..., Any]
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    native: Callable[..., Any] | None = None
    runs: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    _failed: dict[Any, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _LIBRARY.define(f"{self.name}{self.schema}")
        _LIBRARY.impl(self.name, self._compute, "CompositeExplicitAutograd")
        torch.library.register_fake(f"sdaccel::{self.name}", self.fake, lib=_LIBRARY)
        self._op = getattr(torch.ops.sdaccel, self.name).default
        self._interpreted = interpreted()
        _operators()[self.name] = self

    def __call__(self, *arguments: Any) -> Any:
        """Run the op through torch's dispatcher, which `torch.compile` sees as one node.

        On a CPU `torch.compile` sees the reference instead, which Inductor fuses with what is
        around it, unless the op has machine code there.

        Raises RuntimeError where a gradient would be asked for: the ops are for inference.
        """
        if torch.is_grad_enabled() and any(
            isinstance(each, torch.Tensor) and each.requires_grad for each in arguments
        ):
            raise RuntimeError(
                f"sdaccel's {self.name} has no gradient: call it under torch.no_grad(), or restore "
                "the pipe before training."
            )
        transparent = self.native is None and not self._interpreted
        if transparent and torch.compiler.is_compiling() and _on_cpu(arguments):
            return self.reference(*arguments)
        return self._op(*arguments)

    def failures(self) -> tuple[str, ...]:
        """What compilers said where the kernel did not compile; the reference computes there."""
        return tuple(self._failed.values())

    def _compute(self, *arguments: Any) -> Any:
        tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
        device = tensors[0].device
        if device.type == "cpu" and not self._interpreted:
            return self._compute_on_cpu(arguments)
        key = (device, *(each.dtype for each in tensors))
        reason = unavailable(device) or self._failed.get(key)
        if reason is None:
            try:
                result = self.launch(*arguments)
                self.runs["kernel"] += 1
                return result
            except UnsupportedError as limit:
                reason = str(limit)
            except Exception as error:
                if not type(error).__module__.startswith("triton"):
                    raise
                reason = self._failed[key] = _first_line(error)
        return self._fall_back(reason, arguments)

    def _compute_on_cpu(self, arguments: Sequence[Any]) -> Any:
        if self.native is not None:
            try:
                result = self.native(*arguments)
                self.runs["native"] += 1
                return result
            except UnsupportedError as limit:
                self.reasons[str(limit)] += 1
        self.runs["reference"] += 1
        return self.reference(*arguments)

    def _fall_back(self, reason: str, arguments: Sequence[Any]) -> Any:
        if reason not in self.reasons:
            warnings.warn(
                f"sdaccel's {self.name} computes with plain torch: {reason}.",
                SdaccelWarning,
                stacklevel=2,
            )
        self.reasons[reason] += 1
        self.runs["reference"] += 1
        return self.reference(*arguments)


def _on_cpu(arguments: Sequence[Any]) -> bool:
    return all(each.device.type == "cpu" for each in arguments if isinstance(each, torch.Tensor))


@functools.cache
def _operators() -> dict[str, Operator]:
    return {}


def operators() -> Mapping[str, Operator]:
    """The ops registered so far, by name."""
    return _operators()


@functools.cache
def unavailable(device: torch.device) -> str | None:
    """Why kernels can't run on a device, or None."""
    if device.type == "cpu":
        return missing()
    if device.type != "cuda":
        return f"no kernels for a device of type {device.type}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _OLDEST_CHIP:
        return "the kernels need a GPU of compute capability 8.0 or newer"
    return missing()


@dataclass(frozen=True)
class Config:
    """How a kernel is cut: its block sizes by name, warps per program, pipeline stages.

    `boxes` names the tensors that the kernel takes as TMA descriptors, with the boxes they load.
    """

    blocks: Mapping[str, int]
    warps: int = 4
    stages: int = 2
    boxes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Launch:
    """One launch as it was asked for: by name what a caller passes, and what is compiled in.

    `config` may depend on the chip, by its name: "sm_90", "gfx942".
    """

    kernel: Any
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    config: Config | Callable[[str], Config]

    def config_for(self, chip: str) -> Config:
        """How the kernel is cut for a chip."""
        return self.config if isinstance(self.config, Config) else self.config(chip)


_RECORD: ContextVar[list[Launch] | None] = ContextVar("record", default=None)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Within it kernels are not run: their launches are collected, for compiling ahead of time."""
    launches: list[Launch] = []
    token = _RECORD.set(launches)
    try:
        yield launches
    finally:
        _RECORD.reset(token)


@functools.cache
def chip_of(device: torch.device) -> str:
    """A device's chip by its name, as "sm_90" or "gfx942"; "" where it is no GPU."""
    if device.type != "cuda":
        return ""
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def launch(
    kernel: Any,
    grid: tuple[int, ...] | Callable[[Config], tuple[int, ...]],
    arguments: Mapping[str, Any],
    constants: Mapping[str, Any],
    config: Config | Callable[[str], Config],
) -> None:
    """Run a kernel on the device of its first tensor; an empty grid runs nothing.

    `config` may depend on the chip, and `grid` then on the config.
    """
    asked = Launch(kernel, arguments, constants, config)
    record = _RECORD.get()
    if record is not None:
        record.append(asked)
        return
    device = next(each.device for each in arguments.values() if isinstance(each, torch.Tensor))
    config = asked.config_for(chip_of(device))
    grid = grid(config) if callable(grid) else grid
    if 0 in grid:
        return
    options = {**constants, **config.blocks, "num_warps": config.warps, "num_stages": config.stages}
    boxes = {name: _descriptor(arguments[name], box) for name, box in config.boxes.items()}
    arguments = {**arguments, **boxes}
    if device.type == "cpu" or device.index == torch.cuda.current_device():
        kernel[grid](**arguments, **options)
        return
    with torch.cuda.device(device):
        kernel[grid](**arguments, **options)


def takes_boxes(*tensors: torch.Tensor) -> bool:
    """Whether TMA can load from tensors: 16-byte aligned, no dimension empty or expanded.

    CUDA Driver API, cuTensorMapEncodeTiled.
    """
    return all(
        each.numel() > 0
        and each.stride(-1) == 1
        and not each.data_ptr() % 16
        and all(
            length == 1 or (stride > 0 and not stride * each.element_size() % 16)
            for length, stride in zip(each.shape[:-1], each.stride()[:-1], strict=True)
        )
        for each in tensors
    )


def _descriptor(tensor: torch.Tensor, box: tuple[int, ...]) -> Any:
    """The descriptor of a tensor; a dimension of length 1 may have any stride, so gets an aligned.

    It is made on the host: one that is made on the device needs an allocator for the process.
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    strides = [
        16 if length == 1 else stride
        for length, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
    ]
    return TensorDescriptor(tensor, list(tensor.shape), [*strides, 1], list(box))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return f"{type(error).__name__} {next((line for line in lines if line), '')}".strip()
