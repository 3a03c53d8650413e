"""A graph of four nodes with each kind of constant, and the folder of an export that holds it."""

from __future__ import annotations

from pathlib import Path


def graph(
    path: Path,
    weight: float = 1.0,
    scale: float = 2.0,
    number: float = 3.0,
    axis: int = 1,
    name: str = "w",
    outside: bool = False,
) -> Path:
    """A product, a sum, a resize and a shape: weights, a number, a setting and a whole number."""
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
        helper.make_node("MatMul", ["x", name], ["y"]),
        helper.make_node("Add", ["y", "number"], ["z"]),
        helper.make_node("Resize", ["z", "", "scales"], ["r"]),
        helper.make_node("Unsqueeze", ["r", "axis"], ["out"]),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [None, 4])],
        [helper.make_tensor_value_info("out", 1, None)],
        [arrays.from_array(value, key) for key, value in values.items()],
    )
    model = helper.make_model(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, save_as_external_data=outside, location="data", size_threshold=0)
    return path
