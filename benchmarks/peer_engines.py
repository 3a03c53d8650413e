"""Peers that compute with other weights or outside torch: torchao, ONNX Runtime, xDiT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import kept_graphs, peers
from .errors import Skip
from .peer_tools import denoiser_of, package

if TYPE_CHECKING:
    import torch

    from .peer_tools import Change
    from .workloads import Workload

_LOWER, _EXACT = "lower precision", "exact"


def _quantized(config: str, capability: tuple[int, int] | None = None) -> Change:
    """The denoiser's linear layers quantized by torchao, and compiled, as torchao advises."""

    @contextmanager
    def change(pipe: Any, workload: Workload) -> Iterator[None]:
        import torch

        if capability is not None:
            there = pipe.device.type == "cuda" and torch.cuda.get_device_capability(pipe.device)
            if not there or there < capability:
                raise Skip(f"It needs a GPU of compute capability {capability[0]}.{capability[1]}.")
        quantization = package("torchao.quantization", "torchao")
        model = denoiser_of(pipe)
        quantization.quantize_(model, getattr(quantization, config)())
        model.compile()
        try:
            yield
        finally:
            torch._dynamo.reset()

    return change


@contextmanager
def _onnxruntime(pipe: Any, workload: Workload) -> Iterator[None]:
    """Each network exported at its own shapes and run by ONNX Runtime on the CPU."""
    if pipe.device.type != "cpu":
        raise Skip("ONNX Runtime is measured on CPUs alone.")
    runtime = package("onnxruntime", "ONNX Runtime")
    package("onnx", "onnx")
    package("onnxscript", "onnxscript")
    names = workload.networks_of(pipe)
    modules = peers.networks(pipe, names)

    def export(folder: Path) -> None:
        seen = peers.first_arguments(modules, workload.prepare(pipe))
        for index, module in enumerate(modules):
            if module in seen:
                _export(*peers.positional(module, *seen[module]), folder / f"{index}.onnx")

    folder = kept_graphs.at_its_shapes(pipe, names, workload.label, export)
    for index, module in enumerate(modules):
        if (path := folder / f"{index}.onnx").exists():
            session = _session(runtime, path)
            peers.stand_in(module, _runner(session, [each.name for each in session.get_inputs()]))
    yield


def _export(function: torch.nn.Module, tensors: Sequence[torch.Tensor], path: Path) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        torch.onnx.export(function, tuple(tensors), path, dynamo=True, verbose=False)


def _session(runtime: Any, path: Path) -> Any:
    import torch

    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _runner(session: Any, names: Sequence[str]) -> Any:
    """A session as what `peers.stand_in` calls: arrays in, a sequence of arrays out."""

    def run(arrays: Sequence[Any], **_: Any) -> Any:
        return session.run(None, dict(zip(names, arrays, strict=True)))

    return run


def _xdit(pipe: Any, workload: Workload) -> AbstractContextManager[None]:
    """Always skipped: its one picture on several GPUs is no rung of a ladder in one process."""
    raise Skip("xDiT runs as one process a GPU, started by torchrun: this harness times one.")


ENGINES: tuple[tuple[str, str, str, Change], ...] = (
    (
        "torchao-int8",
        "torchao, int8 weights and activations, compiled",
        _LOWER,
        _quantized("Int8DynamicActivationInt8WeightConfig"),
    ),
    (
        "torchao-float8",
        "torchao, float8 weights and activations, compiled",
        _LOWER,
        _quantized("Float8DynamicActivationFloat8WeightConfig", (8, 9)),
    ),
    ("onnxruntime", "static shapes, on the CPU", _EXACT, _onnxruntime),
    ("xdit", "xDiT", _EXACT, _xdit),
)
"""Name, summary, effect, and what puts it on a pipe."""
