"""Compiled denoisers and decoders.

Regional where code can be shared: a kind of block is compiled once for all that are like it,
however many there are. Frozen weights can't be shared, so a frozen model is compiled as one graph.
Freezing is what pays on a CPU: SD1.5's UNet in bf16 takes 1.91 s compiled and 1.67 s frozen where
eager takes 1.8 to 2.05, PixArt-Sigma 2.27 and 1.85 where eager takes 2.40 (2 AMX cores of a Xeon,
torch 2.13). It takes a packed copy of the weights, and the originals wait on disk (see `parking`).
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..device import describe
from .base import Effect, Pass
from .compiled import Compiler
from .compiled_region import Region
from .parking import Parking
from .regions import repeated_blocks

if TYPE_CHECKING:
    import torch

    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target

_SCOPES = ("auto", "regional", "whole")
_MARKS = {"_dynamo_static_input_type", "_is_frozen_param"}
_MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class Compile(Pass):
    """Compile denoisers and, with `vae`, the VAE's decoder, when each is first called.

    What matters:
        scope: "regional" compiles a model's repeated blocks, each kind once, "whole" the model as
            one graph; "auto" is "whole" where weights are frozen, else "regional".
        vae: compile decoding as well.
    For tinkering:
        freeze: compile the weights in as constants, in the order that the library likes best; None
            does so on a CPU. Weights that change are noticed when a generation begins.
        park: let original weights wait in a temporary file while frozen copies compute (see
            `parking`); None where they are large enough to pay.
        dynamic: as in `torch.compile`; None turns a size dynamic when it changes first.
        mode, backend: as in `torch.compile`.
    """

    scope: Literal["auto", "regional", "whole"] = "auto"
    vae: bool = True
    freeze: bool | None = None
    park: bool | None = None
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
        idle: list[Callable[[], None]] = []
        for component, model in target.each(record, *kinds):
            reason = _unfit(component, model)
            if reason is not None:
                record.refuse(component.name, reason)
                continue
            with patch.scope(model):
                self._compile(component, target, patch, record, idle)
        _watch_weights(target, patch, record)

    def _compile(
        self,
        component: Component,
        target: Target,
        patch: Patch,
        record: PassRecord,
        idle: list[Callable[[], None]],
    ) -> None:
        name, entry, on_cpu = component.name, component.entry, target.device.type == "cpu"
        freeze = self.freeze
        if freeze is None:
            freeze = on_cpu and _has_room(entry, record, name)
        parking = Parking(name, record, self.park)
        patch.on_undo(parking.close)
        compiler = Compiler(
            *(name, record, self.backend, self.mode, self.dynamic, freeze), parking, idle
        )
        whole = self.scope == "whole" or (self.scope == "auto" and on_cpu and freeze)
        found = [] if whole else [block for _, block in repeated_blocks(entry)]
        blocks = [each for each in found if "forward" not in each.__dict__]
        if len(blocks) < len(found):
            record.note(f"{name}: {len(found) - len(blocks)} blocks with hooks are left alone")
        _forget_marks(component.module, patch)
        for module in blocks or [entry]:
            region = Region(module, compiler)
            patch.set(module, "forward", region)
            parts = {id(each) for each in module.modules()}
            target.compiled.update(parts)
            target.frozen.update(parts if freeze else ())
        if freeze and not blocks:
            # Weak, since components that pipes share would keep each other alive.
            references = weakref.ref(region), weakref.ref(component.module)
            idle.append(functools.partial(_park_idle, parking, *references))
        record.changed[f"{name} blocks" if blocks else f"{name} as a whole"] = len(blocks) or 1


def _park_idle(
    parking: Parking,
    region_reference: weakref.ref[Region],
    module_reference: weakref.ref[torch.nn.Module],
) -> None:
    """Park what nobody reads of a module that is to be compiled as a whole and has not been yet."""
    region, module = region_reference(), module_reference()
    if region is not None and module is not None and not region.compiled:
        parking.settle(module, ())


def _watch_weights(target: Target, patch: Patch, record: PassRecord) -> None:
    """When a generation begins, throw away code that holds weights which have changed since.

    Models that another pipe has compiled and shares with this one are looked at too.
    """
    forwards = [
        module.__dict__.get("forward")
        for component in target.components
        for module in component.module.modules()
    ]
    found = (getattr(each, "region", each) for each in forwards)
    regions = [each for each in found if isinstance(each, Region)]
    listeners = target.clock.listeners

    def renew() -> None:
        stale = sum([region.renew_if_stale() for region in regions])
        if stale:
            record.ran["renewed for new weights"] += stale
            record.note("weights have changed since they were compiled in: compiled again")

    patch.on_undo(lambda: listeners.remove(renew))
    listeners.append(renew)


def _has_room(module: torch.nn.Module, record: PassRecord, name: str) -> bool:
    """Whether memory suffices for a second, packed copy of the weights; tells what it may take."""
    needed = sum(each.numel() * each.element_size() for each in module.parameters())
    free = describe(next(module.parameters()).device).memory_available
    if needed > free / 2:
        record.note(f"{name}: weights not frozen, {needed / 1e9:.1f} GB of packed copies won't fit")
        return False
    record.note(f"{name}: packed copies of its weights take up to {needed / 1e6:.0f} MB")
    return True


def _forget_marks(module: torch.nn.Module, patch: Patch) -> None:
    """On the way back, take Dynamo's and Inductor's marks off the weights."""
    before = {
        (id(weight), mark)
        for weight in module.parameters()
        for mark in _MARKS & vars(weight).keys()
    }

    def forget() -> None:
        for weight in [*module.parameters(), *module.buffers()]:
            for mark in _MARKS & vars(weight).keys():
                if (id(weight), mark) not in before:
                    delattr(weight, mark)

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
    from torch._dynamo.eval_frame import is_dynamo_supported

    return bool(is_dynamo_supported())


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
