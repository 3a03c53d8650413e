"""Whether a model is still what its recorded forwards were recorded from, and what forbids any.

A replay reads weights where they lay, and runs no Python: so the addresses of all weights count,
but not their values, and everything that Python decides by. It is asked before every forward, and
looks at no value on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_WEIGHTS = ("_parameters", "_buffers")
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CODE = ("forward", "processor")
_OWN = "_sdaccel"
"""Begins the names of what this package keeps on modules, counts of what ran among it."""
_KNOWN = ("diffusers", "sdaccel", "peft", "torch")


class Watch:
    """A model as it is now. It holds on to what it compares by identity."""

    def __init__(self, model: torch.nn.Module) -> None:
        import torch

        self._held = list(model.modules())
        modules = [each.__dict__ for each in self._held]
        owners = [*modules, *map(vars, _processors(model))]
        internal = vars(torch.nn.Module()).keys() - {"training"}
        attributes = [
            (own, name, value)
            for own in owners
            for name, value in own.items()
            if name not in internal and not name.startswith(_OWN)
        ]
        self._sized = [*owners, *(own[name] for own in modules for name in (*_HOOKS, "_modules"))]
        self._children = [own["_modules"] for own in modules]
        self._registered = [own[name] for own in modules for name in _WEIGHTS]
        weights = chain.from_iterable(map(dict.values, self._registered))
        self._weights = [each for each in weights if each is not None]
        self._replaceable = [(own, name) for own in owners for name in _CODE if name in own]
        self._code = [own[name] for own, name in self._replaceable]
        self._tensors = [(o, name) for o, name, value in attributes if hasattr(value, "data_ptr")]
        self._plain = [(o, name) for o, name, value in attributes if isinstance(value, _PLAIN)]
        self._several = [(o, name) for o, name, value in attributes if _is_plain(value)]
        self._structure = self._structure_now()
        self._addresses = self._addresses_now()
        self._values = self._values_now()

    def has_changed(self) -> str | None:
        """What is another now, in a word or two, or None."""
        if self._structure != self._structure_now():
            return "modules"
        if self._addresses != self._addresses_now():
            return "weights"
        return "settings" if self._values != self._values_now() else None

    def _structure_now(self) -> list[Any]:
        """Which modules, hooks and attributes there are."""
        sizes = list(map(len, self._sized))
        children = list(map(id, chain.from_iterable(map(dict.values, self._children))))
        return [sizes, children, [id(own.get(name)) for own, name in self._replaceable]]

    def _addresses_now(self) -> list[Any]:
        """Which tensors the weights are, and where they lie."""
        weights = list(map(id, chain.from_iterable(map(dict.values, self._registered))))
        others: list[Any] = [own.get(name) for own, name in self._tensors]
        pointers = [each.data_ptr() for each in self._weights]
        return [weights, pointers, [getattr(each, "data_ptr", int)() for each in others]]

    def _values_now(self) -> list[Any]:
        found = [own.get(name) for own, name in self._plain]
        return found + [_copied(own.get(name)) for own, name in self._several]


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


def _is_plain(value: Any) -> bool:
    """Whether something is a container of plain values alone."""
    if not isinstance(value, (list, tuple, dict)):
        return False
    return all(
        isinstance(e, _PLAIN) for e in (value.values() if isinstance(value, dict) else value)
    )


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (list, dict)) else value
