"""A traced component as an ONNX file: translated, in single precision, named, written, checked."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from .capture import Captured, failure
from .forms import Form
from .manifest import TensorInfo
from .narrow import to_single

if TYPE_CHECKING:
    import onnx_ir

FILE = "model.onnx"
DECOMPOSED, OPERATOR = 20, 23
"""Opsets: attention as matrix products and a softmax, and as one operator.

ONNX Runtime 1.32 gives the same bits for both on a CPU, and takes 0.94, 0.93 and 0.98 times as
long for the operator with 256, 1024 and 2048 tokens (two samples, 8 heads of 40, fp32, one core of
an AMD EPYC, CPU time, medians of 5). Matrix products are the default: every runtime has them.
"""
_SYMBOL = re.compile(r"\b[su]\d+\b")


def translate(name: str, form: Form, captured: Captured, opset: int) -> onnx_ir.Model:
    """The graph in ONNX's operators; its weights are the module's own tensors."""
    import torch

    try:
        with quiet():
            program = torch.onnx.export(
                captured.program, opset_version=opset, verbose=False, optimize=True
            )
    except Exception as error:
        raise failure(name, form, error) from error
    assert program is not None
    model: onnx_ir.Model = program.model
    to_single(model)
    _name(model, captured)
    return model


def write(model: onnx_ir.Model, folder: Path) -> None:
    """`model.onnx` and, beside it, its weights, one after the other: none is copied in memory.

    Raises `ExportError` where the checker or shape inference finds a fault.
    """
    import onnx
    import onnx_ir

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    onnx_ir.save(model, path, external_data=f"{FILE}.data")
    try:
        onnx.checker.check_model(str(path))
        inferred = folder / "inferred.onnx"
        onnx.shape_inference.infer_shapes_path(str(path), str(inferred), strict_mode=True)
        inferred.unlink()
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"{path} is no valid graph: {reason}.") from error


def described(values: Any) -> tuple[TensorInfo, ...]:
    """Inputs or outputs of a graph for the manifest."""
    from onnx_ir import DataType

    names = {DataType.FLOAT: "float32", DataType.INT64: "int64", DataType.BOOL: "bool"}
    return tuple(
        TensorInfo(
            each.name,
            names.get(each.dtype, each.dtype.name.lower()),
            tuple(dim if isinstance(dim, int) else str(dim.value) for dim in each.shape),
        )
        for each in values
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the translation says of its own steps off the terminal."""
    loggers = [logging.getLogger(each) for each in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def _name(model: onnx_ir.Model, captured: Captured) -> None:
    """Inputs, outputs and dimensions under the names that the manifest gives them."""
    outputs = [f"out_{each}" if each in captured.inputs else each for each in captured.outputs]
    for value in _values(model):
        value.name = f"inside_{value.name}"
    for value, name in zip(model.graph.inputs, captured.inputs, strict=True):
        value.name = name
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    for value in _values(model):
        if value.shape is not None:
            value.shape = _renamed(value.shape, captured.symbols)


def _values(model: onnx_ir.Model) -> Iterator[Any]:
    yield from model.graph.inputs
    for node in model.graph:
        yield from node.outputs


def _renamed(shape: Any, names: Mapping[str, str]) -> Any:
    import onnx_ir

    def renamed(dim: Any) -> Any:
        if isinstance(dim, int) or dim.value is None:
            return dim
        whole = names.get(str(dim.value))
        return whole or _SYMBOL.sub(lambda found: names.get(found[0], found[0]), str(dim.value))

    return onnx_ir.Shape([renamed(dim) for dim in shape])
