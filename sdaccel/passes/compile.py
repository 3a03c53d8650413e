"""Compiled denoisers and decoders."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .base import Effect, Pass
from .compiled import Compiler, Region
from .regions import repeated_blocks

if TYPE_CHECKING:
    import torch

    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target

_SCOPES = ("auto", "regional", "whole")
_MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class Compile(Pass):
    """Compile denoisers and, with `vae`, the VAE's decoder, when each is first called.

    What matters:
        scope: "regional" compiles a model's repeated blocks, each kind once, "whole" the model as
            one graph; "auto" picks what measures better on the device.
        vae: compile decoding as well.
    For tinkering:
        freeze: compile the weights in as constants, in the order that the library likes best; None
            does so on a CPU. Weights that change are noticed when a generation begins.
        dynamic: as in `torch.compile`; None turns a size dynamic when it changes first.
        mode, backend: as in `torch.compile`.
    """

    scope: Literal["auto", "regional", "whole"] = "auto"
    vae: bool = True
    freeze: bool | None = None
    dynamic: bool | None = None
    mode: str | None = None
    backend: str | Callable[..., Any] = "inductor"

    name: ClassVar[str] = "compile"
    summary: ClassVar[str] = "denoisers and decoder compiled, for any size"
    effect: ClassVar[Effect] = Effect.EXACT
    order: ClassVar[int] = 80

    def __post_init__(self) -> None:
        if self.scope not in _SCOPES:
            raise ValueError(f"scope is 'auto', 'regional' or 'whole', not {self.scope!r}")
        if self.mode not in _MODES:
            raise ValueError(f"mode is one of {_MODES[1:]} or None, not {self.mode!r}")

    def refusal(self, target: Target) -> str | None:
        if not _dynamo_works():
            return "this torch has no compiler for this Python: take an older Python"
        if self.backend == "inductor":
            return _missing_tool(target.device.type)
        return None

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        kinds: tuple[Any, ...] = ("denoiser", "vae") if self.vae else ("denoiser",)
        regions: list[Region] = []
        for component, model in target.each(record, *kinds):
            reason = _unfit(component, model)
            if reason is not None:
                record.refuse(component.name, reason)
                continue
            with patch.scope(model):
                regions += self._compile(component, target, patch, record)
        _watch_weights(regions, target, patch, record)

    def _compile(
        self, component: Component, target: Target, patch: Patch, record: PassRecord
    ) -> list[Region]:
        model, on_cpu = component.entry, target.device.type == "cpu"
        freeze = self.freeze if self.freeze is not None else on_cpu
        compiler = Compiler(
            component.name, record, self.backend, self.mode, self.dynamic, freeze=freeze
        )
        whole = self.scope == "whole" or (self.scope == "auto" and on_cpu)
        blocks = [] if whole else [block for _, block in repeated_blocks(model)]
        blocks = [each for each in blocks if "forward" not in each.__dict__]
        changed = f"{component.name} blocks" if blocks else f"{component.name} whole"
        _forget_marks(component.module, patch)
        regions = [Region(each, compiler) for each in blocks or [model]]
        for region in regions:
            patch.set(region.module, "forward", region)
            target.compiled.update(id(each) for each in region.module.modules())
        record.changed[changed] = len(regions)
        return regions


def _watch_weights(regions: list[Region], target: Target, patch: Patch, record: PassRecord) -> None:
    """When a generation begins, throw away code that holds weights which have changed since."""
    listeners = target.clock.listeners

    def renew() -> None:
        stale = sum([region.renew_if_stale() for region in regions])
        if stale:
            record.ran["renewed for new weights"] += stale
            record.note("weights have changed since they were compiled in: compiled again")

    patch.on_undo(lambda: listeners.remove(renew))
    listeners.append(renew)


def _forget_marks(module: torch.nn.Module, patch: Patch) -> None:
    """On the way back, take Dynamo's marks off the weights."""
    marked = [each for each in module.parameters() if hasattr(each, "_dynamo_static_input_type")]
    before = {id(each) for each in marked}

    def forget() -> None:
        for weight in [*module.parameters(), *module.buffers()]:
            if id(weight) not in before:
                weight.__dict__.pop("_dynamo_static_input_type", None)

    patch.on_undo(forget)


def _unfit(component: Component, model: Any) -> str | None:
    """Why a component can't be compiled in place, or None."""
    import torch

    if isinstance(model, torch._dynamo.OptimizedModule) or any(
        each._compiled_call_impl is not None for each in model.modules()
    ):
        return "compiled already"
    if "forward" in component.entry.__dict__:
        return "a hook has replaced its forward"
    if component.kind != "vae":
        return None
    if component.entry is model:
        return "no decoder to compile"
    if hasattr(model, "clear_cache"):
        return "its decoder keeps frames between calls"
    return None


def _dynamo_works() -> bool:
    import torch._dynamo

    return bool(torch._dynamo.is_dynamo_supported())


def _missing_tool(device: str) -> str | None:
    """What code generation for a device lacks on this machine, or None."""
    if device == "cpu":
        usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        compiler = os.environ.get("CXX", usual).split()[0]
        if shutil.which(compiler) is None:
            return f"no C++ compiler: install {compiler}, or set CXX"
    elif device == "cuda":
        from importlib.util import find_spec

        if find_spec("triton") is None:
            return "no Triton: install triton (triton-windows on Windows)"
        if not any(
            shutil.which(each) for each in (os.environ.get("CC", "cc"), "gcc", "clang", "cl")
        ):
            return "no C compiler, which Triton needs: install gcc, or set CC"
    return None
