"""A graph of four nodes with each kind of constant, and the folder of an export that holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def graph(
    path: Path,
    weight: float = 1.0,
    scale: float = 2.0,
    number: float = 3.0,
    axis: int = 1,
    name: str = "w",
    outside: bool = False,
    frames: bool = False,
    operator: str = "MatMul",
) -> Path:
    """A product, a sum, a resize and a shape: weights, a number, a setting and a whole number.

    With `outside` the constants lie in a file of their own; `frames` adds an input without
    dimensions; `operator` is the product's name.
    """
    import numpy as np
    import onnx

    helper, arrays = onnx.helper, onnx.numpy_helper
    values = {
        name: np.full((4, 4), weight, np.float32),
        "number": np.array(number, np.float32),
        "scales": np.array([1, scale], np.float32),
        "axis": np.array([axis], np.int64),
    }
    nodes = [
        helper.make_node(operator, ["x", name], ["y"]),
        helper.make_node("Add", ["y", "number"], ["z"]),
        helper.make_node("Resize", ["z", "", "scales"], ["r"]),
        helper.make_node("Unsqueeze", ["r", "axis"], ["out"]),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", 1, [None, 4]),
            *([helper.make_tensor_value_info("frames", 7, [])] if frames else []),
        ],
        [helper.make_tensor_value_info("out", 1, None)],
        [arrays.from_array(value, key) for key, value in values.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "data").unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=outside, location="data", size_threshold=0)
    return path


def exported(root: Path, **values: Any) -> Any:
    """What an export's manifest says of the graph, written to `root/net`."""
    from sdaccel.export.manifest import ComponentEntry, TensorInfo, checksums

    graph(root / "net" / "model.onnx", outside=True, **values)
    return ComponentEntry(
        class_name="Net",
        file="net/model.onnx",
        precision="fp32",
        inputs=(TensorInfo("x", "float32", ("batch", 4)),),
        outputs=(TensorInfo("out", "float32", ("batch", 1, 8)),),
        arguments={"x": "x"},
        checksums={**checksums(root, "net"), "net/data": _sum(root / "net" / "data")},
    )


def _sum(path: Path) -> str:
    from sdaccel.export.manifest import sha256

    return sha256(path)
