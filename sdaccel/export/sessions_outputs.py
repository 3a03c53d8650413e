"""The outputs of a graph as what the module itself would have returned."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LIKE_AN_INPUT = "out_"
"""Before the name of an output that an input has as well: a UNet takes and gives `sample`."""


def packed(module: Any, outputs: Mapping[str, torch.Tensor], return_dict: bool) -> Any:
    """Outputs, named by their place, in the module's own output class, or in a plain tuple.

    Of a list, such as `hidden_states.11`, the places that the graph does not give are None. A
    graph whose only output has no name of a field (a VAE's half) returns that tensor.
    """
    fields = _nested(outputs, _layers(module))
    module_class: Any = type(module)
    kind = output_class(module_class)
    if kind is None:
        return next(iter(fields.values())) if len(fields) == 1 else tuple(fields.values())
    return kind(**fields) if return_dict else tuple(fields.values())


@functools.cache
def output_class(module_class: Any) -> Any:
    """The class that a module's forward returns, from its annotation; None for a plain tensor."""
    from diffusers.utils import BaseOutput
    from transformers.utils.generic import ModelOutput

    forward = inspect.unwrap(module_class.forward)
    try:
        annotation = typing.get_type_hints(forward).get("return")
    except (NameError, TypeError):
        annotation = None
    choices = (annotation, *typing.get_args(annotation))
    outputs = (each for each in choices if isinstance(each, type))
    found = next((each for each in outputs if issubclass(each, (BaseOutput, ModelOutput))), None)
    return found or _usual_class(module_class)


def _usual_class(module_class: Any) -> Any:
    """What transformers of diffusers' return that are not annotated (PixArt's)."""
    if not module_class.__module__.startswith("diffusers.models.transformers."):
        return None
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    return Transformer2DModelOutput


def _layers(module: Any) -> int:
    config = getattr(module, "config", None)
    return int(getattr(config, "num_hidden_layers", 0) or 0)


def _nested(outputs: Mapping[str, Any], layers: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in outputs.items():
        root, _, place = name.removeprefix(_LIKE_AN_INPUT).partition(".")
        if not place:
            fields[root] = value
            continue
        index = int(place)
        row = fields.setdefault(root, [None] * (layers + 1))
        row.extend([None] * (index + 1 - len(row)))
        row[index] = value
    return {key: tuple(each) if isinstance(each, list) else each for key, each in fields.items()}
