"""TensorRT computes the denoiser, and on demand the VAE and the text encoders, on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import ExportError
from ..target import dtype_of
from .base import Effect
from .sessions import SessionPass

if TYPE_CHECKING:
    from ..export.manifest import ComponentEntry
    from ..export.sessions import Engine
    from ..export.sessions_parts import Part
    from ..export.tensorrt_engines import Opened, Wanted
    from ..export.tensorrt_session import TensorRtEngine
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Target

_PRECISIONS = ("auto", "fp32", "fp16", "bf16")
_NAMES = {"torch.bfloat16": "bf16", "torch.float16": "fp16"}


@dataclass(frozen=True)
class TensorRt(SessionPass):
    """Engines in the place of modules, built for the sizes that are to be drawn.

    After a LoRA is fused and unloaded (`fuse_lora`, `unload_lora_weights`), accelerate anew: the
    engine is refitted. Until then torch computes what has changed.

    What matters, besides a folder and its parts:
        sizes: of pictures in pixels, or of clips, "768x512" or "832x480x81"; None: the pipe's own.
            Other sizes are torch's.
        batch: pictures at once, at most.
        precision: of the graphs; "auto": as the weights are. Engines compute in just that.
        route: "onnx" builds engines of exported graphs and keeps them; "torch" lets torch-tensorrt
            compile the denoiser at its first call, and anew for every other size.
    For tinkering:
        tokens: of text, at most; None: the pipe's own.
        refit: build engines that take other weights afterwards (a LoRA's) in seconds.
        level: from 0 to 5, how long TensorRT looks for fast kernels.
        cache_gb: how many GB of engines are kept in the user's cache; the least recently used go.
        settings: go to torch-tensorrt as they are.
    """

    precision: str = "auto"
    sizes: Sequence[str] | None = None
    batch: int = 1
    route: Literal["onnx", "torch"] = "onnx"
    tokens: int | None = None
    refit: bool = True
    level: int = 3
    cache_gb: float = 20.0
    settings: Mapping[str, Any] | None = None

    name: ClassVar[str] = "tensorrt"
    summary: ClassVar[str] = "engines for the sizes that are drawn, built and computed by TensorRT"
    effect: ClassVar[Effect] = Effect.EXACT
    costly: ClassVar[str] = "it exports the models and builds engines first, which takes minutes"
    conflicts: ClassVar[frozenset[str]] = frozenset({"onnxruntime", "openvino"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision == "auto":
            object.__setattr__(self, "effect", Effect.EXACT)
        elif self.precision not in _PRECISIONS:
            raise ValueError(f"precision is one of {_PRECISIONS}, not {self.precision!r}")
        if self.route not in ("onnx", "torch"):
            raise ValueError(f"route is 'onnx' or 'torch', not {self.route!r}")
        if self.route == "torch" and self.parts != "denoiser":
            raise ValueError("the route 'torch' is for the denoiser alone: set parts='denoiser'")
        if min(self.batch, 1 if self.tokens is None else self.tokens) < 1:
            raise ValueError("batch and tokens are at least 1")
        if not 0 <= self.level <= 5 or self.cache_gb < 0:
            raise ValueError("level is from 0 to 5, and cache_gb not negative")
        from ..export.tensorrt_profiles import Size

        for each in self.sizes or ():
            Size.parse(each)

    def refusal(self, target: Target) -> str | None:
        from ..export import tensorrt_runtime
        from . import tensorrt_torch

        try:
            tensorrt_runtime.gpu_of(target.device)
            (tensorrt_torch if self.route == "torch" else tensorrt_runtime).runtime()
        except ExportError as error:
            return str(error)
        return None

    @property
    def export_precision(self) -> str | None:
        """As each component's weights are, unless another is asked for."""
        return None if self.precision == "auto" else self.precision

    def check(self, entry: ComponentEntry, target: Target) -> None:
        wanted = self.precision
        if wanted == "auto":
            module = next(each.module for each in target.components if each.kind == "denoiser")
            wanted = _NAMES.get(str(dtype_of(module)), "fp32")
        if entry.precision != wanted:
            raise ExportError(
                f"{entry.file} was exported in {entry.precision}, and {wanted} is asked for or is "
                "what the weights are in: set precision, or name another folder."
            )

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        if self.route == "onnx":
            super().apply(target, patch, record)
            return
        from .tensorrt_torch import stand_in

        for component, module in target.each(record, "denoiser"):
            with patch.scope(module):
                stand_in(component, target, patch, record, dict(self.settings or {}))

    def open(self, folder: Path, part: Part, target: Target, record: PassRecord) -> Engine:
        from ..export import tensorrt_runtime
        from ..export.tensorrt_engines import ENGINES, cache, open_engine
        from ..export.tensorrt_session import TensorRtEngine
        from ..export.tensorrt_store import EngineStore

        wanted = self._wanted(folder, part, target)
        with tensorrt_runtime.current(target.device):
            found = open_engine(wanted, EngineStore(folder / ENGINES), cache(self.cache_gb))
            made = TensorRtEngine(part.entry, found.engine, wanted.recipe.profiles, target.device)
        _tell(part.name, made, found, record)
        return made

    def _wanted(self, folder: Path, part: Part, target: Target) -> Wanted:
        from ..export.tensorrt_engines import wanted
        from ..export.tensorrt_profiles import Request

        request = Request.of(target.pipe, self.sizes, self.batch, self.tokens)
        return wanted(
            part, folder, target.pipe, target.device, request, refit=self.refit, level=self.level
        )


def _tell(name: str, engine: TensorRtEngine, found: Opened, record: PassRecord) -> None:
    record.seconds[found.how] += found.seconds
    for each in found.notes:
        record.note(each)
    sizes = ", ".join(each.name for each in engine.profiles)
    plan, workspace = found.plan_bytes / 1e6, engine.workspace / 1e6
    record.note(
        f"{name}: an engine of {plan:,.0f} MB and {workspace:,.0f} MB of activations, {found.how}, "
        f"for {sizes}"
    )
