"""Whether a model is still what its recorded forwards were recorded from, and what forbids any.

A replay reads weights where they lay, and runs no Python: so the addresses of all weights count,
but not their values, and everything that Python decides by. It is asked before every forward, and
looks at no value on the device. What it looks at has left the caches since the last time, so it
looks at little: at which objects there are, and only where one is another, whether it is equal.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import chain
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
_LAYERS = ("torch.nn.modules.", "torch.ao.nn.")
_PLAIN_LAYERS = ("Linear", "ModuleList")
"""torch's own modules that are numerous, and compute by their weights or their children alone."""


class Watch:
    """A model as it is now. It holds on to what it compares by identity."""

    def __init__(self, model: torch.nn.Module) -> None:
        modules = list(model.modules())
        layers = [each for each in modules if type(each).__module__.startswith(_LAYERS)]
        self._layers = [each.__dict__ for each in layers]
        self._layer_sizes = list(map(len, self._layers))
        settled = (each.__dict__ for each in layers if type(each).__name__ not in _PLAIN_LAYERS)
        self._settings = list(chain.from_iterable(map(_settings_in, settled)))
        self._settings_held = self._settings_now()
        self._hooks = Hooks(modules)
        self._children = Contents(_filled(modules, "_modules"))
        self._weights = Contents([each for name in _WEIGHTS for each in _filled(modules, name)])
        others = [
            each.__dict__ for each in modules if not type(each).__module__.startswith(_LAYERS)
        ]
        self._owners = [*others, *map(vars, _processors(model))]
        self._look()

    def _look(self) -> None:
        """Take the attributes of modules that are no layers of torch's for right as they are."""
        import torch

        self._attributes = Contents(self._owners)
        self._before = list(map(dict, self._owners))
        settings = chain.from_iterable(map(_settings_in, self._owners))
        self._lists = [own[name] for own, name in settings if isinstance(own[name], (list, dict))]
        self._copies = [each.copy() for each in self._lists]
        held = (*self._weights.held, *self._attributes.held)
        self._tensors = [each for each in held if isinstance(each, torch.Tensor)]
        self._addresses = self._addresses_now()

    def has_changed(self) -> str | None:
        """What is another now, in a word or two, or None."""
        same = self._hooks.are_same() and self._children.are_same()
        if not same or self._layer_sizes != list(map(len, self._layers)):
            return "modules"
        if not self._weights.are_same() or self._addresses != self._addresses_now():
            return "weights"
        if self._settings_held != self._settings_now() or self._lists != self._copies:
            return "settings"
        return None if self._attributes.are_same() else self._replaced()

    def _settings_now(self) -> list[Any]:
        return [own.get(name) for own, name in self._settings]

    def _addresses_now(self) -> list[int]:
        import torch

        return list(map(torch.Tensor.data_ptr, self._tensors))

    def _replaced(self) -> str | None:
        """What is not even equal, of attributes that are other objects."""
        import torch

        for own, before in zip(self._owners, self._before, strict=True):
            if own.keys() != before.keys():
                return "modules"
            for name, value in own.items():
                was = before[name]
                if value is was or name.startswith(_OWN):
                    continue
                if name in _CODE:
                    return "modules"
                if isinstance(value, torch.Tensor) or isinstance(was, torch.Tensor):
                    return "weights"
                if (_is_setting(value) or _is_setting(was)) and value != was:
                    return "settings"
        self._look()
        return None


def _filled(modules: Sequence[torch.nn.Module], name: str) -> list[dict[str, Any]]:
    """The modules' dictionaries of this name that hold something."""
    return [each.__dict__[name] for each in modules if each.__dict__[name]]


def _settings_in(own: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The names under which an object holds plain values, each with what holds it."""
    names = [name for name in own.keys() - _internal() if not name.startswith(_OWN)]
    return ((own, name) for name in names if _is_setting(own[name]))


@functools.cache
def _internal() -> frozenset[str]:
    """What torch keeps on every module, but for the mode that it is in."""
    import torch

    return frozenset(vars(torch.nn.Module()).keys() - {"training"})


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
