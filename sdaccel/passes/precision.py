"""16-bit weights and activations, where the machine computes them faster.

What diffusers and transformers list as `_keep_in_fp32_modules` stays in float32. The way back is
exact and costs no memory over the float32 model: beside each bfloat16 weight stands what rounding
took from it, in 16 bits (for float16, the float32 weight itself, in host memory). On a CPU that
waits on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import malloc
from ..device import faster_dtype
from ..mapped_file import NoDiskError, map_copies
from ..target import SESSION
from .base import Effect, Pass
from .memory_format import count_calls
from .parking import PAYS_FROM, in_words
from .rounding import Lost, Rounding, lost_by, rejoin, to_dtype

if TYPE_CHECKING:
    import torch

    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Target

_DTYPES = ("auto", "bfloat16", "float16")


@dataclass(frozen=True)
class Precision(Pass):
    """Compute in 16 bit. `dtype`: "auto" measures what this machine is fastest in, or a name."""

    dtype: str = "auto"

    name: ClassVar[str] = "precision"
    summary: ClassVar[str] = "weights and activations in 16 bit"
    effect: ClassVar[Effect] = Effect.LOWER_PRECISION
    order: ClassVar[int] = 20

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype is one of {', '.join(_DTYPES)}, not {self.dtype!r}")

    def refusal(self, target: Target) -> str | None:
        import torch

        if target.dtype != torch.float32:
            return f"the pipe is in {str(target.dtype).removeprefix('torch.')} already"
        for component in target.components:
            if component.kind != "other" and component.obstacle is not None:
                return f"{component.name} is {component.obstacle}, and all have to change together"
            if SESSION in component.module.__dict__:
                return f"a session computes {component.name}, and all have to change together"
        if self.dtype == "auto":
            choice = faster_dtype(target.device)
            return choice.reason if choice.dtype == torch.float32 else None
        return None

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        import torch

        automatic = faster_dtype(target.device) if self.dtype == "auto" else None
        dtype = automatic.dtype if automatic else getattr(torch, self.dtype)
        if automatic:
            record.note(automatic.reason)
        error, lost = Rounding(), list[Lost]()
        for component, model in target.each(record, "denoiser", "vae", "text_encoder", "other"):
            with patch.scope(component.module):
                cast = cast_parameters(model, dtype, patch, error, lost)
                count_calls(component, patch, record)
            record.changed[f"{component.name} tensors to {str(dtype).removeprefix('torch.')}"] = (
                cast
            )
        if target.device.type == "cpu":
            _park(lost, record)
        malloc.trim()
        record.note(f"rounding moved the weights by {error.relative:.1e} (relative L2)")


def cast_parameters(
    model: Any, dtype: torch.dtype, patch: Patch, error: Rounding, lost: list[Lost]
) -> int:
    """Cast the float32 tensors of `model`, but for those it keeps in float32; returns how many.

    What a cast to bfloat16 takes from them is added to `lost`.
    """
    cast = 0
    for tensor in _castable(model):
        before = tensor.data
        tensor.data = to_dtype(before, dtype, error)
        patch.on_undo(_way_back(tensor, before, lost))
        cast += 1
    return cast


def _castable(model: Any) -> Iterator[torch.Tensor]:
    """The float32 parameters and saved buffers that may be cast, each once."""
    import torch

    kept = set(getattr(model, "_keep_in_fp32_modules", None) or [])
    transient = {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }
    named = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in named:
        if (
            name not in transient
            and tensor.dtype == torch.float32
            and kept.isdisjoint(name.split("."))
        ):
            yield tensor


def _way_back(tensor: torch.Tensor, before: torch.Tensor, lost: list[Lost]) -> Callable[[], None]:
    """The undo of one cast. It holds half the bytes of `before` where the cast is to bfloat16."""
    import torch

    if tensor.dtype == torch.bfloat16:
        kept = lost_by(before, tensor.data)
        lost.append(kept)

        def undo() -> None:
            tensor.data = rejoin(tensor.data, kept)

    else:
        original = before.cpu()

        def undo() -> None:
            tensor.data = original.to(tensor.device)

    return undo


def _park(lost: list[Lost], record: PassRecord) -> None:
    """Let what rounding took wait in a file where it is large: it is read by `restore` alone."""
    kept = [each for each in lost if each.low.numel()]
    size = sum(each.low.nbytes for each in kept)
    if size < PAYS_FROM:
        return
    try:
        mapping = map_copies([each.low.untyped_storage() for each in kept])
    except (NoDiskError, OSError) as error:
        record.note(f"what rounding took from the weights stays in memory: {error}")
        return
    for each, storage in zip(kept, mapping.storages, strict=True):
        each.low = each.low.new_empty(0).set_(storage, 0, each.low.shape, each.low.stride())
    mapping.leave_memory()
    record.note(f"{in_words(size)} that rounding took from the weights wait on disk")
