"""What others offer, at its best: torch.compile with and without frozen weights, and OpenVINO."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import Skip
from .peer_tools import HINT

if TYPE_CHECKING:
    import torch


def networks(pipe: Any, names: Sequence[str]) -> list[torch.nn.Module]:
    """The modules that do a workload's work: of a VAE that is the decoder."""
    found = [getattr(pipe, name) for name in names]
    return [getattr(module, "decoder", module) for module in found]


def to_channels_last(module: torch.nn.Module) -> None:
    """Put the weights of 2-D convolutions in channels-last order.

    `Module.to` refuses a module that holds convolutions in 3-D as well, as video models do.
    """
    import torch

    for weight in module.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


@contextmanager
def compiled(pipe: Any, names: Sequence[str], freezing: bool) -> Iterator[None]:
    """Each network as one torch.compile graph; frozen ones are channels-last first."""
    import torch
    import torch._inductor.config as inductor

    for name in names:
        if freezing:
            to_channels_last(getattr(pipe, name))
    for module in networks(pipe, names):
        module.compile()
    try:
        with inductor.patch(freezing=freezing):
            yield
    finally:
        torch._dynamo.reset()


@contextmanager
def openvino(
    pipe: Any, names: Sequence[str], call: Callable[[], torch.Tensor], precision: str
) -> Iterator[None]:
    """Each network converted at its own shapes and compiled for latency ("f32", "bf16" or "f16").

    `call` runs the workload once, to see the inputs. Raises `Skip` where OpenVINO is missing.
    """
    try:
        ov: Any = import_module("openvino")
    except ImportError as error:
        raise Skip(f"OpenVINO is not installed: {HINT}.") from error
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    for module, (args, kwargs) in first_arguments(networks(pipe, names), call).items():
        function, tensors = positional(module, args, kwargs)
        shapes = [list(each.shape) for each in tensors]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing fixes the shapes, which is what is wanted
            graph = ov.convert_model(function, example_input=tensors, input=shapes)
        stand_in(module, ov.compile_model(graph, "CPU", options))
    yield


def first_arguments(
    modules: Sequence[torch.nn.Module], call: Callable[[], Any]
) -> dict[torch.nn.Module, tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments with which each module is called first during one run of the workload."""
    seen: dict[Any, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def remember(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.setdefault(module, (args, kwargs))

    hooks = [each.register_forward_pre_hook(remember, with_kwargs=True) for each in modules]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def positional(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """A module seen as a function of its tensors alone, and those tensors.

    Its other arguments stay what they are here; of a tuple it returns the first element.
    """
    import torch

    values = [*args, *kwargs.values()]
    places = [index for index, value in enumerate(values) if isinstance(value, torch.Tensor)]

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            filled = list(values)
            for index, tensor in zip(places, tensors, strict=True):
                filled[index] = tensor
            named = dict(zip(kwargs, filled[len(args) :], strict=True))
            output = self.network(*filled[: len(args)], **named)
            first: torch.Tensor = output[0] if isinstance(output, tuple) else output
            return first

    return Positional().eval(), tuple(values[index] for index in places)


def stand_in(module: torch.nn.Module, compiled_model: Any) -> None:
    """Give one module another's computation for a forward: arrays in, a sequence of arrays out."""
    import torch

    def forward(*args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        arrays = [each.numpy() for each in values if isinstance(each, torch.Tensor)]
        output = torch.from_numpy(compiled_model(arrays, share_inputs=True)[0])
        return (output,) if kwargs.get("return_dict") is False else output

    module.forward = forward
