"""Whether a graph computes what its module does: ONNX Runtime on the CPU against torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ExportError
from .capture import draw, paths
from .examples import Arguments, Example, Extent
from .forms import Form
from .manifest import TensorInfo

TOLERANCE = 1e-4
"""The largest relative L2 distance in fp32."""


@dataclass(frozen=True)
class Distance:
    """How far a graph's outputs are from the module's for one size, as relative L2."""

    size: Extent
    error: float


def distances(form: Form, example: Example, path: Path, inputs: Any) -> list[Distance]:
    """The worst output at two sizes, with one sample and with three; `inputs` are the manifest's.

    The graph was traced with two samples.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [_distance(form, example, session, inputs, size) for size in sizes(example)]


def check(name: str, form: Form, example: Example, path: Path, inputs: Any) -> None:
    """Raise `ExportError` where a graph is further from its module than `TOLERANCE`."""
    worst = max(distances(form, example, path, inputs), key=lambda each: each.error)
    if not worst.error <= TOLERANCE:
        raise ExportError(
            f"{name} ({type(form.module).__name__}) was exported, but its graph differs from the "
            f"module by a relative L2 distance of {worst.error:.1e} at {worst.size}, more than "
            f"{TOLERANCE:.0e}: leave it out with components=..."
        )


def sizes(example: Example) -> Iterator[Extent]:
    """Two sizes, each with one sample and with three; the second is larger in every dimension."""
    small = example.size
    large = replace(
        small,
        height=small.height + 4,
        width=small.width - 2,
        frames=small.frames + 2,
        tokens=small.tokens + 4,
    )
    for size in (small, large):
        yield from (replace(size, batch=batch) for batch in (1, 3))


def feeds(arguments: Arguments, inputs: Any) -> dict[str, Any]:
    """The arguments as ONNX Runtime takes them, in the dtypes of the graph's inputs."""
    found = dict(paths(arguments))
    return {each.name: _array(found[each.name], each) for each in inputs}


def _distance(form: Form, example: Example, session: Any, inputs: Any, size: Extent) -> Distance:
    arguments = draw(form, example, size, seed=1)
    with torch.no_grad():
        expected: Mapping[str, torch.Tensor] = form.stock(arguments)
    outputs = [each.name.removeprefix("out_") for each in session.get_outputs()]
    computed = session.run(None, feeds(arguments, inputs))
    errors = [
        _relative(torch.from_numpy(found), expected[name])
        for name, found in zip(outputs, computed, strict=True)
    ]
    return Distance(size, max(errors))


def _array(value: Any, info: TensorInfo) -> Any:
    tensor = torch.as_tensor(value)
    return tensor.to(getattr(torch, info.dtype)).numpy()


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    truth = expected.float()
    return float((found.float() - truth).norm() / truth.norm())
