"""OpenVINO's side of a session: a graph compiled for each size it is called with.

With sizes known OpenVINO plans memory and picks kernels, which is what makes it fast; the programs
of the last two sizes are kept. A graph with int8 layers keeps them, and `precision` is what the
rest computes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError, InputError

if TYPE_CHECKING:
    import torch

    from .manifest import ComponentEntry

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""OpenVINO's names for the precisions that a program may compute in."""
_KEPT = 2
"""Programs kept; each holds packed weights of its own (SD1.5's UNet in bf16: 1.7 GB)."""

Sizes = tuple[tuple[int, ...], ...]


def runtime() -> Any:
    """The package, or an `ExportError` that names the extra."""
    try:
        return import_module("openvino")
    except ImportError as error:
        raise ExportError("OpenVINO is not installed: pip install sdaccel[openvino].") from error


@dataclass
class OpenVinoEngine:
    """One graph in OpenVINO, on the CPU; `options` go to its compiler as they are."""

    entry: ComponentEntry
    graph: Any
    options: Mapping[str, Any]
    _programs: dict[Sizes, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        path: Path,
        entry: ComponentEntry,
        precision: str = "fp32",
        options: Mapping[str, Any] | None = None,
    ) -> OpenVinoEngine:
        """Read a graph; it is compiled when it is first called.

        Raises `ExportError` where OpenVINO is missing or can't read the graph.
        """
        import torch

        openvino = runtime()
        try:
            graph = openvino.Core().read_model(str(path))
        except RuntimeError as error:
            raise ExportError(f"OpenVINO can't read {path}: {_first_line(error)}") from error
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            **(options or {}),
        }
        return cls(entry, graph, settings)

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Engine`. Raises `InputError` where the graph has no program for these sizes."""
        import torch

        first = next(iter(inputs.values()))
        program = self._program(inputs)
        arrays = {name: _array(each) for name, each in inputs.items()}
        found = program(arrays, share_inputs=True)
        return {
            info.name: torch.from_numpy(found[info.name]).to(first.device)
            for info in self.entry.outputs
        }

    def _program(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        sizes = tuple(tuple(inputs[info.name].shape) for info in self.entry.inputs)
        program = self._programs.pop(sizes, None) or self._compiled(sizes)
        while len(self._programs) >= _KEPT:
            del self._programs[next(iter(self._programs))]
        self._programs[sizes] = program
        return program

    def _compiled(self, sizes: Sizes) -> Any:
        names = [info.name for info in self.entry.inputs]
        shapes = dict(zip(names, map(list, sizes), strict=True))
        try:
            self.graph.reshape(shapes)
            return runtime().compile_model(self.graph, "CPU", dict(self.options))
        except RuntimeError as error:
            raise InputError(
                f"OpenVINO can't compile the graph for {shapes} ({_first_line(error)}): draw at "
                "another size, or export the pipeline again for this one."
            ) from error


def _array(tensor: torch.Tensor) -> Any:
    """The same memory as a numpy array; numpy has no bfloat16, so that one becomes float32."""
    import torch

    values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return values.cpu().numpy()


def _first_line(error: BaseException) -> str:
    lines = [each.strip() for each in str(error).splitlines() if each.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
