"""torch-tensorrt in a module's place: compiled at its first call, refitted when its weights change.

torch-tensorrt's mutable module compiles what torch can trace and leaves the rest to torch. It gets
a shallow copy, with the same parameters and submodules, and the module's forward becomes a call of
that: so whatever the pipe knows of the module stays as it is.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from ..kernels.native import cache_folder
from ..target import SESSION
from .frozen import Fingerprint

if TYPE_CHECKING:
    import torch

    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target

FOLDER = "torch-tensorrt"
"""Where in the user's cache its engines lie; its own place is a temporary folder."""


def runtime() -> Any:
    """The package, or an `ExportError` that names the extra."""
    try:
        return import_module("torch_tensorrt")
    except ImportError as error:
        raise ExportError(
            "torch-tensorrt is not installed: pip install sdaccel[torch-tensorrt]."
        ) from error


@dataclass
class Mutable:
    """A module's forward by torch-tensorrt; `compiled` is its mutable module."""

    name: str
    compiled: Any
    record: PassRecord

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        self.record.ran[f"{self.name} by torch-tensorrt"] += 1
        return self.compiled(*args, **kwargs)

    def look_again(self) -> None:
        """Let torch-tensorrt compare the weights at the next call: it refits, or compiles anew."""
        flag = type(self.compiled.refit_state.get_state())
        self.compiled.refit_state.set_state(flag.UNKNOWN)
        self.record.ran[f"changed weights of {self.name} noticed"] += 1


def stand_in(
    component: Component,
    target: Target,
    patch: Patch,
    record: PassRecord,
    settings: dict[str, Any],
) -> None:
    """Let torch-tensorrt compute a component; `settings` go to its compiler as they are."""
    module = component.module
    package = runtime()
    compiled = package.MutableTorchTensorRTModule(
        copy.copy(module), device=target.device, **{**usual_settings(package), **settings}
    )
    mutable = Mutable(component.name, compiled, record)
    patch.set(module, "forward", mutable)
    patch.set(module, SESSION, record.name)
    patch.on_undo(lambda: _bring_back(module, target.device))
    record.changed[f"{component.name} by torch-tensorrt"] = 1
    seen = [Fingerprint.of(module).values]
    listeners = target.clock.listeners

    def look() -> None:
        now = Fingerprint.of(module).values
        if now != seen[0]:
            seen[0] = now
            mutable.look_again()

    patch.on_undo(lambda: listeners.remove(look))
    listeners.append(look)


def usual_settings(package: Any) -> dict[str, Any]:
    """Strong types, no TF32, and engines kept in the user's cache."""
    known = package.dynamo.CompilationSettings.__dataclass_fields__
    folder = cache_folder() / FOLDER
    wanted: dict[str, Any] = {
        "use_explicit_typing": True,  # 2.14 has no other types, and no such setting
        "disable_tf32": True,
        "cache_built_engines": True,
        "reuse_cached_engines": True,
    }
    kept = {"engine_cache_dir": str(folder), "timing_cache_path": str(folder / "timings")}
    return {key: value for key, value in wanted.items() if key in known} | kept


def _bring_back(module: torch.nn.Module, device: torch.device) -> None:
    """torch-tensorrt lets the weights wait in host memory while its engines compute."""
    module.to(device)
