"""Whether a model is still the one that was looked at: its modules, adapters, hooks and weights.

It is asked before every forward, so it compares identities and counts alone: no value, no wait for
the device. What changes weights through `.data` shows only where it changes something else too, as
merging an adapter does; at the next generation everything is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from .pending import version_of

if TYPE_CHECKING:
    import torch

_ADAPTERS = ("_active_adapter", "_disable_adapters")
_LISTED = ("_modules", "_parameters", "_buffers")


class Watch:
    """A model as it was, and tensors, such as weights, that something was computed from.

    `attributes` are tensors in dictionaries or lists, with the key under which each must stay.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._owners = [each.__dict__ for each in model.modules()]
        self._adapters = [own for own in self._owners if "scaling" in own]
        self._tensors: list[torch.Tensor] = []
        self.attributes: list[tuple[Any, Any, torch.Tensor]] = []
        self._structure, self._scales = self._structure_now(), self._scales_now()
        self._versions: list[Any] = []

    def watch(self, tensors: Iterable[torch.Tensor]) -> None:
        """Look at these as well from now on."""
        known = set(map(id, self._tensors))
        self._tensors += [each for each in tensors if id(each) not in known]
        self.renew()

    def renew(self) -> None:
        """Take the tensors for right as they are now."""
        self._versions = self._versions_now()

    def has_changed(self) -> str | None:
        """What is another now, in a few words, or None."""
        if self._structure != self._structure_now():
            return "modules or hooks"
        if self._scales != self._scales_now():
            return "an adapter"
        stay = all(_at(where, key) is tensor for where, key, tensor in self.attributes)
        return None if stay and self._versions == self._versions_now() else "weights"

    def _structure_now(self) -> list[Any]:
        owners = self._owners
        found: list[Any] = []
        for name in _LISTED:
            found += map(id, chain.from_iterable(own[name].values() for own in owners))
        found += [id(own.get("processor")) for own in owners]
        found += [id(own["forward"]) for own in owners if "forward" in own]
        found += [len(own["_forward_hooks"]) for own in owners if own["_forward_hooks"]]
        found += [len(own["_forward_pre_hooks"]) for own in owners if own["_forward_pre_hooks"]]
        return found

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
        return [(each.data_ptr(), version_of(each)) for each in self._tensors]


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
