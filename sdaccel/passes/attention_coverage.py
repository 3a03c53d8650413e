"""Which attentions of a model are routed, those that are put in later included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..patch import Patch
from .attention_seam import Seam

if TYPE_CHECKING:
    from ..report import PassRecord


class Coverage:
    """The models of one pass, whose attentions `seam` routes and `record` counts."""

    def __init__(self, seam: Seam, record: PassRecord) -> None:
        self._seam = seam
        self._record = record
        self._models: list[tuple[torch.nn.Module, Patch]] = []

    def add(self, name: str, model: torch.nn.Module, patch: Patch) -> None:
        """Route the attentions of a model, and tell which are left alone."""
        later = Patch()
        patch.on_undo(later.undo)
        self._models.append((model, later))
        routed, left = self._route(model, patch)
        for kind, count in left.items():
            self._record.note(f"{name}: {count} of {kind} left alone, which has its own way")
        if not routed:
            self._record.refuse(name, "it has no attention that can be routed")

    def renew(self) -> None:
        """Route what the user has put in since: slicing, fused projections, adapters do so."""
        for model, later in self._models:
            self._route(model, later)

    def _route(self, model: torch.nn.Module, patch: Patch) -> tuple[int, Counter[str]]:
        """How many attentions are routed now, and by kind how many are not."""
        routed, left = 0, Counter[str]()
        for place, is_processor in _places(model):
            kind = type(place)
            subclass = None if self._seam.made(kind) else self._seam.subclass_of(kind)
            if subclass is not None and _can_change(place):
                patch.set_class(place, subclass)
                self._record.changed[kind.__name__] += 1
            elif is_processor and not self._seam.made(kind):
                left[kind.__name__] += 1
            routed += self._seam.made(type(place))
        return routed, left


def _places(model: torch.nn.Module) -> Iterator[tuple[Any, bool]]:
    """What may call attention: each module, and each processor, which several may share."""
    seen: set[int] = set()
    for module in model.modules():
        processor = getattr(module, "processor", None)
        for place, is_processor in ((processor, True), (module, False)):
            if place is not None and id(place) not in seen:
                seen.add(id(place))
                yield place, is_processor


def _can_change(place: Any) -> bool:
    """Not where a hook calls the forward that it found before, or nothing can be set."""
    hooked = isinstance(place, torch.nn.Module) and "forward" in vars(place)
    return not hooked and hasattr(place, "__dict__")
