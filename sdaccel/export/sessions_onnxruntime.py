"""ONNX Runtime's side of a session: the providers, and tensors bound where they lie.

Inputs and outputs are bound by their addresses, so nothing is copied between torch and ONNX Runtime
on a CPU or, with a CUDA or TensorRT provider, on a GPU, where its kernels join torch's own stream.
A CUDA graph replays with the addresses that it was captured with: where the provider options ask
for one (`enable_cuda_graph`), each size has tensors of its own, and inputs and outputs are copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError, InputError
from .sessions_shapes import resolved, symbol_values

if TYPE_CHECKING:
    import torch

    from .manifest import ComponentEntry, TensorInfo

_ERRORS_ONLY = 3
Tensors = dict[str, "torch.Tensor"]
_ON_GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


def runtime() -> Any:
    """The package, or an `ExportError` that names the extra."""
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise ExportError("ONNX Runtime is not installed: pip install sdaccel[onnx].") from error


def providers_for(device: torch.device, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The providers asked for, or the device's; an `ExportError` names those that are missing."""
    there = runtime().get_available_providers()
    usual = {"cuda": ("CUDAExecutionProvider",), "cpu": ()}.get(device.type)
    if usual is None and asked is None:
        raise ExportError(
            f"ONNX Runtime has no usual provider for {device.type} devices: name one in providers."
        )
    wanted = tuple(asked) if asked is not None else usual or ()
    missing = [each for each in wanted if each not in there]
    if missing:
        raise ExportError(
            f"This ONNX Runtime has no {missing[0]}, only {', '.join(there)}: install a build with "
            "it (onnxruntime-gpu has CUDA and TensorRT), or name another in providers."
        )
    return (*wanted, *(() if "CPUExecutionProvider" in wanted else ("CPUExecutionProvider",)))


@dataclass(frozen=True)
class Fixed:
    """The tensors of one size, bound once; `options` number the CUDA graph that is theirs."""

    inputs: Tensors
    outputs: Tensors
    binding: Any
    options: Any


@dataclass
class OnnxRuntimeEngine:
    """One graph in ONNX Runtime; `device` is where its inputs and outputs lie.

    With `fixed` those of one size are always the same tensors.
    """

    entry: ComponentEntry
    session: Any
    device: torch.device
    fixed: bool = False
    _sizes: dict[Any, Fixed] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        path: Path,
        entry: ComponentEntry,
        device: torch.device,
        providers: Sequence[str] | None = None,
        provider_options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> OnnxRuntimeEngine:
        """Load a graph; `provider_options` are each provider's own, by its name.

        It runs on as many threads as torch does now. Raises `ExportError` for a provider that this
        ONNX Runtime lacks, and for a graph that it can't load.
        """
        import torch

        ort = runtime()
        chosen = providers_for(device, providers)
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _ERRORS_ONLY
        settings = [
            {**_on_torch_stream(each, device), **(provider_options or {}).get(each, {})}
            for each in chosen
        ]
        try:
            session = ort.InferenceSession(
                str(path), options, providers=list(chosen), provider_options=settings
            )
        except Exception as error:
            raise ExportError(f"ONNX Runtime can't load {path}: {_first_line(error)}") from error
        bound = device if any(each in _ON_GPU for each in chosen) else torch.device("cpu")
        graphs = any(str(each.get("enable_cuda_graph", 0)) in ("1", "True") for each in settings)
        return cls(entry, session, bound, graphs)

    def run(self, inputs: Mapping[str, torch.Tensor]) -> Tensors:
        """See `Engine`; outputs lie where the first input does.

        Raises `InputError` where a kernel does not take these sizes.
        """
        home = next(iter(inputs.values())).device
        placed = {name: each.to(self.device) for name, each in inputs.items()}
        found = self._replayed(placed) if self.fixed else self._computed(placed)
        return {name: each.to(home) for name, each in found.items()}

    def _computed(self, inputs: Tensors) -> Tensors:
        binding, outputs = self._bound(inputs)
        self._run(binding, inputs)
        made = dict(zip(outputs, binding.get_outputs(), strict=True))
        return {
            name: _as_tensor(made[name]) if each is None else each for name, each in outputs.items()
        }

    def _replayed(self, inputs: Tensors) -> Tensors:
        """By the tensors of this size; what comes out is a copy: the next call overwrites it."""
        key = tuple(tuple(each.shape) for each in inputs.values())
        if key not in self._sizes:
            self._sizes[key] = self._fix(inputs, len(self._sizes))
        held = self._sizes[key]
        for name, each in inputs.items():
            held.inputs[name].copy_(each)
        self._run(held.binding, inputs, held.options)
        return {name: each.clone() for name, each in held.outputs.items()}

    def _fix(self, inputs: Tensors, number: int) -> Fixed:
        import torch

        own = {name: torch.empty_like(each) for name, each in inputs.items()}
        binding, outputs = self._bound(own)
        known = {name: each for name, each in outputs.items() if each is not None}
        if len(known) < len(outputs):
            raise InputError(
                "A CUDA graph needs outputs whose sizes follow from the inputs': take "
                "enable_cuda_graph out of provider_options."
            )
        options = runtime().RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number + 1))
        return Fixed(own, known, binding, options)

    def _bound(self, inputs: Tensors) -> tuple[Any, dict[str, torch.Tensor | None]]:
        binding = self.session.io_binding()
        for info in self.entry.inputs:
            binding.bind_input(**_place(info, inputs[info.name]))
        return binding, self._bind_outputs(binding, symbol_values(self.entry.inputs, inputs))

    def _run(self, binding: Any, inputs: Tensors, options: Any = None) -> None:
        try:
            self.session.run_with_iobinding(binding, options)
        except Exception as error:
            sizes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in inputs.items())
            raise InputError(
                f"The graph can't be computed for {sizes} ({_first_line(error)}): draw at another "
                "size, or export the pipeline again for this one."
            ) from error

    def _bind_outputs(
        self, binding: Any, values: Mapping[str, int]
    ) -> dict[str, torch.Tensor | None]:
        """New tensors for the outputs whose shape is known before; None where it is not."""
        import torch

        outputs: dict[str, torch.Tensor | None] = {}
        for info in self.entry.outputs:
            shape = resolved(info.shape, values)
            if shape is None:
                binding.bind_output(info.name, self.device.type, self.device.index or 0)
                outputs[info.name] = None
                continue
            tensor = torch.empty(shape, dtype=getattr(torch, info.dtype), device=self.device)
            binding.bind_output(**_place(info, tensor))
            outputs[info.name] = tensor
        return outputs


def _place(info: TensorInfo, tensor: torch.Tensor) -> dict[str, Any]:
    return {
        "name": info.name,
        "device_type": tensor.device.type,
        "device_id": tensor.device.index or 0,
        "element_type": _ELEMENT_TYPES[info.dtype],
        "shape": list(tensor.shape),
        "buffer_ptr": tensor.data_ptr(),
    }


_ELEMENT_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "bfloat16": 16,
}
"""ONNX's numbers for the dtypes (`onnx.TensorProto.DataType`), by torch's names."""


def _as_tensor(value: Any) -> torch.Tensor:
    """What ONNX Runtime has allocated, as a tensor on the same memory."""
    from torch.utils import dlpack

    tensor: torch.Tensor = dlpack.from_dlpack(value)
    return tensor


def _on_torch_stream(provider: str, device: torch.device) -> dict[str, Any]:
    """Let a provider on a GPU queue its kernels behind torch's: then nobody waits for anybody."""
    if provider not in _ON_GPU or device.type != "cuda":
        return {}
    import torch

    stream = torch.cuda.current_stream(device).cuda_stream
    return {"device_id": str(device.index or 0), "user_compute_stream": str(stream)}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
