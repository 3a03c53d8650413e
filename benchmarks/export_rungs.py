"""Our own exports as rungs: the denoiser's graph in ONNX Runtime and in OpenVINO, also in int8.

A run exports a model once, which is no part of what is timed (`kept_graphs`). One whose pictures
are judged is calibrated on held-out prompts far behind those that judge it, and its sensitive
layers are measured; random weights are calibrated on the workload's own call, as good as any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import sdaccel
from sdaccel import device
from sdaccel.errors import ExportError

from . import kept_graphs
from .errors import Skip
from .peer_tools import package
from .rungs import Opened, Rung, state_of
from .workloads import Workload

if TYPE_CHECKING:
    from sdaccel.target import Component

_PROMPTS, _BEHIND = 8, 1000
_TOLERANCE = 0.05
Runtime = Literal["onnxruntime", "openvino"]
_NEEDED = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "onnx")}


def _export(runtime: Runtime, precision: str, summary: str) -> Rung:
    @contextmanager
    def opened(pipe: Any, workload: Workload) -> Iterator[Opened]:
        _skip_unless_able(pipe, workload, runtime)
        graphs = _graphs(pipe, workload, runtime, precision)
        options = {"folder": str(graphs.folder), "precision": precision, "release": True}
        sdaccel.accelerate(pipe, runtime, strict=True, **{runtime: options})
        record = sdaccel.report(pipe)[runtime]

        def states() -> dict[str, str]:
            return {runtime: state_of(record)}

        try:
            yield Opened(pipe, record.effect, passes=states, spent=graphs.spent)
        finally:
            sdaccel.restore(pipe)

    return Rung(f"export-{runtime}-{precision}", "plan", summary, opened)


def _skip_unless_able(pipe: Any, workload: Workload, runtime: Runtime) -> None:
    if pipe.device.type != "cpu":
        raise Skip("Exports are measured on CPUs alone.")
    for name in _NEEDED[runtime]:
        package(name, name)
    if not _denoisers(pipe, workload):
        raise Skip("It is the denoiser that is exported, and this workload runs none.")
    if runtime == "openvino" and str(device.faster_dtype("cpu").dtype) == "torch.float32":
        raise Skip("This CPU computes no 16-bit type faster.")


def _denoisers(pipe: Any, workload: Workload) -> list[Component]:
    from sdaccel.target import Target

    names = workload.networks_of(pipe)
    return [each for each in Target.of(pipe).denoisers if each.name in names]


def _graphs(pipe: Any, workload: Workload, runtime: Runtime, precision: str) -> kept_graphs.Kept:
    """The graphs of the rung; raises `Skip` where the model can't be exported."""
    try:
        whole = kept_graphs.in_fp32(pipe, _denoisers(pipe, workload))
        if precision != "int8":
            return whole
        return kept_graphs.in_int8(
            whole,
            pipe,
            workload.label,
            _calibration(pipe, workload),
            tolerance=_TOLERANCE if workload.judge else None,
            outputs=runtime == "onnxruntime",
        )
    except ExportError as error:
        raise Skip(str(error)) from error


def _calibration(pipe: Any, workload: Workload) -> Callable[[], object]:
    """A few calls of the pipe that nobody judges it by."""
    judge = workload.judge
    if judge is None:
        return workload.prepare(pipe)
    from sdaccel.cli import models

    prompts = judge.prompts(_BEHIND + _PROMPTS)[_BEHIND:]
    settings = {**models.call_defaults(judge.model), "num_inference_steps": judge.steps}
    return lambda: pipe(prompts, **settings, output_type="latent")


EXPORTS = (
    _export("onnxruntime", "fp32", "our export, any size, in ONNX Runtime"),
    _export("onnxruntime", "int8", "and static int8 convolutions and linear layers"),
    _export("openvino", "bf16", "our export, in OpenVINO"),
    _export("openvino", "int8", "and static int8 convolutions and linear layers"),
)
