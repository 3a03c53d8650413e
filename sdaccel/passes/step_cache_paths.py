"""Full and shallow calls of a denoiser that is compiled as a whole, as two functions over tensors.

The full one returns the denoiser's result and the features that the shallow one takes. Traced, the
shallow one runs all blocks and puts what it was given in the place of what they return: nothing
reads what is behind, and the compiler drops it. The decision between them stays outside.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .compiled_region import Region

if TYPE_CHECKING:
    import torch

    from .step_cache_state import Call, FeatureCache

CACHE = "_sdaccel_step_cache"
"""Under this name a denoiser has its cache."""
_KEYS = "features"
_REPLAYED = ("reduce-overhead", "max-autotune")
"""Modes of `torch.compile` whose results lie in memory that the next call writes to."""


class Path:
    """What blocks meet within one of the two functions: features to leave, or to take.

    `given` are the features of a shallow call, None makes it a full one. Transformer blocks note
    what they were given, which one ran last, and why they are not what they seemed to be.
    """

    def __init__(self, given: Mapping[str, torch.Tensor] | None = None) -> None:
        self.given = given
        self.kept: dict[str, torch.Tensor] = {}
        self.entered: dict[str, torch.Tensor] = {}
        self.newest: tuple[int, int] | None = None
        self.reason: str | None = None

    def at(self, key: str, value: torch.Tensor) -> torch.Tensor:
        """What a tensor goes on as: a full call keeps a copy of it, a shallow one replaces it."""
        if self.given is not None:
            return self.given[key]
        self.kept[key] = value.clone()
        return value


class TwoPaths:
    """Stands where a denoiser's forward is looked up, and calls the one function or the other."""

    def __init__(self, region: Region, cache: FeatureCache) -> None:
        functools.update_wrapper(self, region)
        self.region = region
        self._cache = cache
        kind: Any = type(region.module)
        self._full = region.variant(functools.partial(_full, kind.forward))
        self._shallow = region.variant(functools.partial(_shallow, kind.forward))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        if torch.compiler.is_compiling():
            return self.region(*args, **kwargs)
        if self._full.dead or self._shallow.dead:  # blocks that run one by one decide themselves
            return self.region.stock(*args, **kwargs)
        call = self._cache.call
        if call is not None and call.shallow and _KEYS in call.stream.outlines:
            given = {key: call.predict(key) for key in call.stream.outlines[_KEYS]}
            return self._shallow(given, *args, **kwargs)
        result, kept, reason = self._full(*args, **kwargs)
        if reason is not None:
            self._cache.give_up(reason)
        elif call is not None:
            self._keep(call, kept)
        return result

    def _keep(self, call: Call, kept: Mapping[str, torch.Tensor]) -> None:
        call.stream.outlines[_KEYS] = tuple(kept)
        for key, value in kept.items():
            call.keep(key, value.clone() if self.region.compiler.mode in _REPLAYED else value)


def _full(forward: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
    """The denoiser's result, the features behind it, and why there are none, if so."""
    cache, path = getattr(module, CACHE), Path()
    cache.path = path
    result = forward(module, *args, **kwargs)
    cache.path = None
    return result, path.kept, path.reason


def _shallow(
    forward: Any, module: Any, given: Mapping[str, torch.Tensor], *args: Any, **kwargs: Any
) -> Any:
    """The denoiser's result with these features."""
    cache = getattr(module, CACHE)
    cache.path = Path(given)
    result = forward(module, *args, **kwargs)
    cache.path = None
    return result
