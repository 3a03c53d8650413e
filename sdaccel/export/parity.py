"""Whether a graph computes what its module does: ONNX Runtime on the CPU against torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

    The graph was traced with two samples. Raises `ExportError` where ONNX Runtime can't compute it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with _computing(path):
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    found = []
    for size in sizes(example):
        arguments = draw(form, example, size, seed=1)
        with torch.no_grad():
            expected: Mapping[str, torch.Tensor] = form.stock(arguments)
        with _computing(path):
            computed = session.run(None, feeds(arguments, inputs))
        outputs = [each.name.removeprefix("out_") for each in session.get_outputs()]
        found.append(Distance(size, _worst(dict(zip(outputs, computed, strict=True)), expected)))
    return found


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


@contextmanager
def _computing(path: Path) -> Iterator[None]:
    """Name the graph in what ONNX Runtime raises, whose errors have no type in common."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ExportError(
            f"{path} can't be computed by ONNX Runtime ({reason}): leave it out with "
            "components=..., and export the others."
        ) from error


def _worst(computed: Mapping[str, Any], expected: Mapping[str, torch.Tensor]) -> float:
    return max(
        _relative(torch.from_numpy(found), expected[name]) for name, found in computed.items()
    )


def _array(value: Any, info: TensorInfo) -> Any:
    tensor = torch.as_tensor(value)
    return tensor.to(getattr(torch, info.dtype)).numpy()


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    truth = expected.float()
    return float((found.float() - truth).norm() / truth.norm())
