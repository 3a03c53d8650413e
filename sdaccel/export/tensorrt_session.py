"""TensorRT's side of a session: an engine that reads and writes torch's tensors where they lie.

Nothing waits for the device: shapes and addresses are set on the host, and the engine's kernels run
in a stream between torch's before and torch's after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ExportError, InputError
from . import tensorrt_runtime
from .sessions import UnfitCallError
from .tensorrt_profiles import Profile, joined

if TYPE_CHECKING:
    import torch

    from .manifest import ComponentEntry


@dataclass
class TensorRtEngine:
    """One engine and its context on a GPU; `profiles` in the order that it was built with."""

    entry: ComponentEntry
    engine: Any
    profiles: tuple[Profile, ...]
    device: torch.device
    context: Any = field(init=False)
    _on_host: frozenset[str] = field(init=False)
    _stream: Any = field(init=False)
    _active: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        """Raises `ExportError` where the GPU has no room for the engine's activations."""
        package = tensorrt_runtime.runtime()
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise ExportError(
                f"The GPU has no room for {self.workspace / 1e9:.1f} GB of activations: name "
                "smaller sizes, or fewer pictures at once."
            )
        host = package.TensorLocation.HOST
        names = [each.name for each in self.entry.inputs]
        self._on_host = frozenset(x for x in names if self.engine.get_tensor_location(x) == host)
        self._stream = tensorrt_runtime.new_stream(self.device)

    @property
    def workspace(self) -> int:
        """Bytes of the GPU's memory for activations."""
        return int(self.engine.device_memory_size_v2)

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Engine`; outputs lie where the first input does.

        Raises `UnfitCallError` for a size outside of the profiles.
        """
        home = next(iter(inputs.values())).device
        profile = self._profile(inputs)
        placed = {
            name: each.to("cpu" if name in self._on_host else self.device)
            for name, each in inputs.items()
        }
        with tensorrt_runtime.queue(self.device, self._stream) as stream:
            self._select(profile, stream)
            self._take(placed)
            outputs = self._outputs()
            if not self.context.execute_async_v3(stream):
                raise InputError("TensorRT could not compute the graph: draw at another size.")
        return {name: each.to(home) for name, each in outputs.items()}

    def _profile(self, inputs: Mapping[str, torch.Tensor]) -> int:
        refusals = []
        for index, profile in enumerate(self.profiles):
            refusal = profile.refusal(inputs)
            if refusal is None:
                return index
            refusals.append(refusal)
        raise UnfitCallError(f"the engine is for {joined(self.profiles)}, and {refusals[0]}")

    def _select(self, profile: int, stream: int) -> None:
        if profile == self._active:
            return
        if not self.context.set_optimization_profile_async(profile, stream):
            raise InputError("TensorRT could not change to the profile of this size.")
        self._active = profile

    def _take(self, inputs: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in inputs.items():
            if not (
                self.context.set_input_shape(name, tuple(tensor.shape))
                and self.context.set_tensor_address(name, tensor.data_ptr())
            ):
                raise InputError(f"TensorRT takes no '{name}' of shape {tuple(tensor.shape)}.")

    def _outputs(self) -> dict[str, torch.Tensor]:
        """New tensors, of the shapes that follow from the inputs'."""
        import torch

        made = {}
        for info in self.entry.outputs:
            shape = tuple(self.context.get_tensor_shape(info.name))
            if min(shape, default=0) < 0:
                raise InputError(f"The size of '{info.name}' does not follow from the inputs'.")
            tensor = torch.empty(shape, dtype=getattr(torch, info.dtype), device=self.device)
            self.context.set_tensor_address(info.name, tensor.data_ptr())
            made[info.name] = tensor
        return made
