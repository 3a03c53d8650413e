"""ONNX Runtime computes the denoiser, and on demand the VAE and the text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ExportError
from .base import Effect
from .sessions import SessionPass

if TYPE_CHECKING:
    from ..export.manifest import ComponentEntry
    from ..export.sessions import Engine
    from ..export.sessions_parts import Part
    from ..report import PassRecord
    from ..target import Target


@dataclass(frozen=True)
class OnnxRuntime(SessionPass):
    """ONNX Runtime's sessions in the place of modules.

    More for tinkering:
        providers: ONNX Runtime's names, the first that can runs a node; None takes the device's.
        provider_options: for each provider its own.
    """

    providers: Sequence[str] | None = None
    provider_options: Mapping[str, Mapping[str, Any]] | None = None

    name: ClassVar[str] = "onnxruntime"
    summary: ClassVar[str] = "exported graphs, computed by ONNX Runtime"
    effect: ClassVar[Effect] = Effect.EXACT
    conflicts: ClassVar[frozenset[str]] = frozenset({"openvino", "tensorrt"})

    def refusal(self, target: Target) -> str | None:
        from ..export.sessions_onnxruntime import providers_for

        try:
            providers_for(target.device, self.providers)
        except ExportError as error:
            return str(error)
        return None

    def open(self, folder: Path, part: Part, target: Target, record: PassRecord) -> Engine:
        from ..export.sessions_onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine.open(
            folder / part.entry.file,
            part.entry,
            target.device,
            self.providers,
            self.provider_options,
        )

    def check(self, entry: ComponentEntry, target: Target) -> None:
        if entry.precision != self.precision:
            raise ExportError(
                f"{entry.file} was exported in {entry.precision}, and {self.precision} is asked "
                f"for: set precision='{entry.precision}', or name another folder."
            )
