"""OpenVINO computes the denoiser, and on demand the VAE and the text encoders, on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..device import faster_dtype
from ..errors import ExportError
from .base import Effect
from .sessions import SessionPass

if TYPE_CHECKING:
    from ..export.manifest import ComponentEntry
    from ..export.sessions import Engine
    from ..export.sessions_parts import Part
    from ..report import PassRecord
    from ..target import Target

_PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
_NAMES = {"torch.bfloat16": "bf16", "torch.float16": "fp16"}


@dataclass(frozen=True)
class OpenVino(SessionPass):
    """OpenVINO's programs in the place of modules, compiled anew for every size.

    `precision` is what it computes in, "auto" what this CPU computes fastest of 16 and 32 bit;
    "int8" wants a folder with int8 graphs, and computes what is not in int8 as "auto" would.
    `compile_options` go to OpenVINO as they are.
    """

    precision: str = "auto"
    compile_options: Mapping[str, Any] | None = None

    name: ClassVar[str] = "openvino"
    summary: ClassVar[str] = "exported graphs, computed by OpenVINO"
    effect: ClassVar[Effect] = Effect.EXACT
    conflicts: ClassVar[frozenset[str]] = frozenset({"onnxruntime", "tensorrt"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in _PRECISIONS:
            raise ValueError(f"precision is one of {_PRECISIONS}, not {self.precision!r}")

    @property
    def export_precision(self) -> str:
        """Graphs are in fp32 whatever OpenVINO computes in, but for int8."""
        return "int8" if self.precision == "int8" else "fp32"

    def refusal(self, target: Target) -> str | None:
        from ..export.openvino_session import runtime

        if target.device.type != "cpu":
            return f"OpenVINO computes on CPUs here, and this pipe is on {target.device}"
        try:
            runtime()
        except ExportError as error:
            return str(error)
        return None

    def open(self, folder: Path, part: Part, target: Target, record: PassRecord) -> Engine:
        from ..export.openvino_session import HINTS, OpenVinoEngine

        hint = self.precision
        if hint not in HINTS:
            hint = _NAMES.get(str(faster_dtype(target.device).dtype), "fp32")
        path = folder / part.entry.file
        return OpenVinoEngine.open(path, part.entry, hint, self.compile_options)

    def check(self, entry: ComponentEntry, target: Target) -> None:
        if (entry.precision == "int8") != (self.precision == "int8"):
            raise ExportError(
                f"{entry.file} was exported in {entry.precision}, and {self.precision} is asked "
                "for: int8 needs int8 graphs, and everything else needs others."
            )
