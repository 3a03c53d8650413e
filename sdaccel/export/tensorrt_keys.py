"""What an engine depends on, as two checksums: one of all but the weights, one of the weights.

An engine with the same structure and other weights is refitted, any other is built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError

if TYPE_CHECKING:
    from .manifest import ComponentEntry
    from .tensorrt_profiles import Profile
    from .tensorrt_runtime import Gpu

_FORMAT = 1
"""Of what is kept beside an engine; a newer one finds none of the older."""
_SETTINGS = ("Resize", "Pad", "Clip", "Range")
"""Operators whose constants TensorRT reads when it parses a graph, and never again."""
_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")


@dataclass(frozen=True)
class Recipe:
    """How an engine is built of a graph.

    `refit`: its weights can be changed afterwards; `tf32`: fp32 products may be computed in TF32;
    `level`: from 0 to 5, how long TensorRT looks for fast kernels (its own default is 3).
    """

    profiles: tuple[Profile, ...]
    refit: bool = True
    tf32: bool = False
    level: int = 3


@dataclass(frozen=True)
class EngineKey:
    """Names an engine: checksums of its structure and of its weights."""

    structure: str
    weights: str

    @property
    def name(self) -> str:
        """The engine's folder."""
        return f"{self.structure}-{self.weights}"


def key_of(graph: Path, entry: ComponentEntry, recipe: Recipe, gpu: Gpu, version: str) -> EngineKey:
    """The key of an engine of a graph; `version` is TensorRT's. Raises `ExportError`."""
    parts = [_FORMAT, structure(graph), asdict(recipe), asdict(gpu), version]
    weights = sorted(entry.checksums.items())
    return EngineKey(_sum(json.dumps(parts).encode()), _sum(json.dumps(weights).encode()))


def structure(graph: Path) -> str:
    """A checksum of a graph in which the values of its weights do not count, all others do."""
    model = _load(graph)
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    names = set(_weights(model))
    for each in model.graph.initializer:
        if each.name in names:
            for field in ("raw_data", "float_data", "int32_data", "double_data", "external_data"):
                each.ClearField(field)
        elif uses_external_data(each):
            load_external_data_for_tensor(each, str(graph.parent))
            each.ClearField("external_data")
    return _sum(model.SerializeToString(deterministic=True))


def _weights(model: Any) -> Iterator[str]:
    """The initializers in floats, but for numbers and what sets how an operator works."""
    from onnx import TensorProto

    floats = {TensorProto.DataType.Value(each) for each in _FLOATS}
    fixed = {
        name for node in model.graph.node if node.op_type in _SETTINGS for name in node.input[1:]
    }
    for each in model.graph.initializer:
        if each.data_type in floats and each.dims and each.name not in fixed:
            yield each.name


def _load(graph: Path) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ExportError("onnx is not installed: pip install sdaccel[tensorrt].") from error
    try:
        return onnx.load(str(graph), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ExportError(f"{graph} can't be read ({error}): export the pipeline again.") from error


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]
