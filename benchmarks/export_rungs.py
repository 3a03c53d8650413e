"""Our own exports as rungs: the denoiser's graph in ONNX Runtime and in OpenVINO, also in int8.

A rung exports into a temporary folder, which is no part of what is timed. A model whose pictures
are judged is calibrated on held-out prompts far behind those that judge it, and its sensitive
layers are measured; random weights are calibrated on the workload's own call, as good as any.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import sdaccel
from sdaccel import device
from sdaccel.errors import ExportError

from .errors import Skip
from .peer_tools import package
from .rungs import Opened, Rung, state_of
from .workloads import Workload

_PROMPTS, _BEHIND = 8, 1000
_TOLERANCE = 0.05
Runtime = Literal["onnxruntime", "openvino"]
_NEEDED = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "onnx")}


def _export(runtime: Runtime, precision: str, summary: str) -> Rung:
    @contextmanager
    def opened(pipe: Any, workload: Workload) -> Iterator[Opened]:
        _skip_unless_able(pipe, workload, runtime)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            graphs = _graphs(pipe, workload, runtime, precision, Path(folder))
            options = {"folder": str(graphs), "precision": precision, "release": True}
            sdaccel.accelerate(pipe, runtime, strict=True, **{runtime: options})
            record = sdaccel.report(pipe)[runtime]
            try:
                yield Opened(pipe, record.effect, passes=lambda: {runtime: state_of(record)})
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


def _denoisers(pipe: Any, workload: Workload) -> list[str]:
    from sdaccel.target import Target

    names = workload.networks_of(pipe)
    return [each.name for each in Target.of(pipe).denoisers if each.name in names]


def _graphs(pipe: Any, workload: Workload, runtime: Runtime, precision: str, folder: Path) -> Path:
    """The folder with the graphs of the rung; raises `Skip` where the model can't be exported."""
    from sdaccel.export import export
    from sdaccel.export.quantize import quantize

    whole, small = folder / "fp32", folder / "int8"
    names = _denoisers(pipe, workload)
    try:
        export(pipe, whole, components=names, precision="fp32", check=False)
        if precision == "int8":
            tolerance = _TOLERANCE if workload.judge else None
            draw, outputs = _calibration(pipe, workload), runtime == "onnxruntime"
            quantize(whole, small, pipe, draw, tolerance=tolerance, outputs=outputs)
            return small
    except ExportError as error:
        raise Skip(str(error)) from error
    return whole


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
