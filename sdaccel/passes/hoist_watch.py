"""Whether a model is still the one that was looked at: its modules, adapters, hooks and weights.

It is asked before every forward, so it compares identities and counts alone: no value, no wait for
the device, and no walk through the model. It looks at the modules in which something is computed
that the latents have no part in, a fifth of SDXL's; the rest can't change what is kept. What
changes weights through `.data` shows only where it changes something else too, as merging
an adapter does; at the next generation everything is computed anew.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any

from .contents import Contents, Hooks

if TYPE_CHECKING:
    import torch

_ADAPTERS = ("_active_adapter", "_disable_adapters")
_LISTED = ("_modules", "_parameters", "_buffers")
_ADDRESS, _COUNT = operator.methodcaller("data_ptr"), operator.attrgetter("_version")


class Watch:
    """A model's parts as they were, and tensors, such as weights, that something was computed from.

    `attributes` are tensors in dictionaries or lists, with the key under which each must stay.
    """

    def __init__(self) -> None:
        self.attributes: list[tuple[Any, Any, torch.Tensor]] = []
        self._watched: dict[torch.nn.Module, None] = {}
        self._tensors: dict[int, torch.Tensor] = {}

    def watch(
        self, modules: Iterable[torch.nn.Module], tensors: Iterable[torch.Tensor] = ()
    ) -> None:
        """Look at these as well from now on, and take what is looked at for right as it is now."""
        self._watched.update(dict.fromkeys(modules))
        self._tensors.update((id(each), each) for each in tensors)
        owners = [module.__dict__ for module in self._watched]
        self._structure = _Structure(self._watched)
        listed = [own[name] for own in owners for name in ("_parameters", "_buffers")]
        self._weights = Contents([each for each in listed if each])
        self._adapters = [own for own in owners if "scaling" in own]
        self._scales = self._scales_now()
        self._counted = [each for each in self._tensors.values() if not each.is_inference()]
        self.renew()

    def renew(self) -> None:
        """Take the tensors for right as they are now."""
        self._versions = self._versions_now()

    def has_changed(self) -> str | None:
        """What is another now, in a few words, or None."""
        if not self._structure.is_same():
            return "modules or hooks"
        if self._adapters and self._scales != self._scales_now():
            return "an adapter"
        stay = all(_at(where, key) is tensor for where, key, tensor in self.attributes)
        stay = stay and self._weights.are_same()
        return None if stay and self._versions == self._versions_now() else "weights"

    def _scales_now(self) -> list[Any]:
        return [
            (
                dict(own["scaling"]) if isinstance(own["scaling"], dict) else own["scaling"],
                list(own.get("merged_adapters", ())),
                *(_copied(own.get(name)) for name in _ADAPTERS),
            )
            for own in self._adapters
        ]

    def _versions_now(self) -> list[Any]:
        return [*map(_ADDRESS, self._tensors.values()), *map(_COUNT, self._counted)]


class _Structure:
    """What modules hold besides weights: modules, hooks, other forwards."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        modules = list(modules)
        owners = [each.__dict__ for each in modules]
        self._modules = Contents([own["_modules"] for own in owners])
        self._named = [
            (own, name, own[name])
            for own in owners
            for name in ("processor", "forward")
            if name in own
        ]
        self._plain = [own for own in owners if "forward" not in own]
        self._hooks = Hooks(modules)

    def is_same(self) -> bool:
        """Whether nothing was put in another's place, added or taken away."""
        return (
            self._modules.are_same()
            and self._hooks.are_same()
            and all(own.get(name) is each for own, name, each in self._named)
            and not any(map(operator.contains, self._plain, repeat("forward")))
        )


def attributes_of(model: torch.nn.Module) -> Iterator[tuple[Any, Any, torch.Tensor]]:
    """The tensors that modules hold as plain attributes, or in lists and dictionaries of such."""
    import torch

    for module in model.modules():
        own = module.__dict__
        for name, value in own.items():
            if isinstance(value, torch.Tensor):
                yield own, name, value
            elif isinstance(value, (dict, list, tuple)) and name not in _LISTED:
                items = value.items() if isinstance(value, dict) else enumerate(value)
                yield from (
                    (value, key, each) for key, each in items if isinstance(each, torch.Tensor)
                )


def _at(where: Any, key: Any) -> Any:
    try:
        return where[key]
    except (KeyError, IndexError):
        return None


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
