"""Whether a model is still what its recorded forwards were recorded from, and what forbids any.

A replay reads weights where they lay, and runs no Python: so the addresses of all weights count,
but not their values, and everything that Python decides by. It is asked before every forward, and
looks at no value on the device. What it looks at has left the caches since the last time, so it
looks at little.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .contents import Contents, Hooks

if TYPE_CHECKING:
    import torch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_WEIGHTS = ("_parameters", "_buffers")
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CODE = ("forward", "processor")
_OWN = "_sdaccel"
"""Begins the names of what this package keeps on modules, counts of what ran among it."""
_KNOWN = ("diffusers", "sdaccel", "peft", "torch")
_LAYERS = "torch.nn.modules."


class Watch:
    """A model as it is now. It holds on to what it compares by identity."""

    def __init__(self, model: torch.nn.Module) -> None:
        import torch

        modules = list(model.modules())
        layers = [each.__dict__ for each in modules if _is_layer(each)]
        others = [each.__dict__ for each in modules if not _is_layer(each)]
        filled = [own for own in layers if own["_parameters"] or own["_buffers"]]
        self._owners = [*layers, *others, *(each.__dict__ for each in _processors(model))]
        self._sizes = list(map(len, self._owners))
        self._hooks = Hooks(modules)
        self._children = Contents([own["_modules"] for own in others])
        self._weights = Contents([own[name] for name in _WEIGHTS for own in (*others, *filled)])
        self._objects = [
            (own, name, value)
            for own in self._owners
            for name, value in own.items()
            if name in _CODE or isinstance(value, torch.Tensor)
        ]
        held = (*self._weights.held, *(value for _, _, value in self._objects))
        self._tensors = [each for each in held if isinstance(each, torch.Tensor)]
        self._addresses = self._addresses_now()
        self._settings = list(_settings_of(self._owners))
        self._values = [tuple(map(_copied, values)) for values in self._settings_now()]

    def has_changed(self) -> str | None:
        """What is another now, in a word or two, or None."""
        same = self._hooks.are_same() and self._children.are_same()
        if not same or self._sizes != list(map(len, self._owners)):
            return "modules"
        for own, name, value in self._objects:
            if own.get(name) is not value:
                return "modules" if name in _CODE else "weights"
        if not self._weights.are_same() or self._addresses != self._addresses_now():
            return "weights"
        try:
            return None if self._values == self._settings_now() else "settings"
        except KeyError:
            return "settings"

    def _settings_now(self) -> list[tuple[Any, ...]]:
        return [read(own) for own, read in self._settings]

    def _addresses_now(self) -> list[int]:
        import torch

        return list(map(torch.Tensor.data_ptr, self._tensors))


def _is_layer(module: torch.nn.Module) -> bool:
    """Whether it is one of torch's own, which has no modules inside."""
    return type(module).__module__.startswith(_LAYERS) and not hasattr(module, "__len__")


def _settings_of(
    owners: Sequence[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], Callable[[Any], tuple[Any, ...]]]]:
    """What holds plain values, with what reads them all at once."""
    for own in owners:
        names = [
            name
            for name in own.keys() - _ignored()
            if not name.startswith(_OWN) and _is_setting(own[name])
        ]
        if names:
            # of a single name it would not make a tuple
            yield own, operator.itemgetter(*names, names[0])


@functools.cache
def _ignored() -> frozenset[str]:
    """What torch keeps on every module, but for its mode, and sizes that its weights have."""
    import torch

    internal = vars(torch.nn.Module()).keys() - {"training"}
    return frozenset(internal | {"in_features", "out_features", "in_channels", "out_channels"})


def obstacle_in(model: torch.nn.Module) -> str | None:
    """What in a model runs Python that a replay would leave out, in half a sentence, or None."""
    for module in model.modules():
        own = module.__dict__
        if module is not model and any(own[name] for name in _HOOKS):
            return "there are hooks on its modules, which would not run"
        hooks = own.get("_diffusers_hook")
        if hooks is not None and hooks.hooks:
            return "diffusers' hooks are on it, which would not run"
        if own.get("_compiled_call_impl") is not None:
            return "compiled by the user, who may have chosen graphs"
        forward = own.get("forward")
        if module is not model and forward is not None and not _is_known(forward):
            return f"somebody has replaced the forward of a {type(module).__name__}"
    for processor in _processors(model):
        if not _is_known(processor):
            return f"an attention processor, {type(processor).__name__}, may keep count of its own"
    return None


def _processors(model: torch.nn.Module) -> Iterator[Any]:
    """The processors that are no modules; those that are count as such."""
    import torch

    for module in model.modules():
        processor = module.__dict__.get("processor")
        if hasattr(processor, "__dict__") and not isinstance(processor, torch.nn.Module):
            yield processor


def _is_known(value: Any) -> bool:
    """Whether something comes from a library that keeps nothing of its own from call to call."""
    module = getattr(value, "__module__", None) or type(value).__module__
    return str(module).split(".")[0] in _KNOWN


def _is_setting(value: Any) -> bool:
    """Whether something is a plain value, or a container of such alone."""
    if isinstance(value, (list, tuple, dict)):
        values = value.values() if isinstance(value, dict) else value
        return all(isinstance(each, _PLAIN) for each in values)
    return isinstance(value, _PLAIN)


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (list, dict)) else value
