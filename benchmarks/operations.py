"""What one call computes, operator by operator: FLOPs, bytes, time, and how near to the ceilings.

FLOPs are those of torch's counter, of matrix products, convolutions and attention; of any other
operator none. Bytes are those of its inputs and outputs, each once, whatever caches do. An operator
is bound by what would take longer at the measured ceilings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdaccel import device

if TYPE_CHECKING:
    import torch

_LABEL = "sdaccel::operation::"
Key = tuple[str, tuple[tuple[int, ...], ...], str]


@dataclass
class Operation:
    """All calls of one operator with inputs of the same shapes, in one dtype.

    `seconds` are the device's, with what the operator itself needs of the host on a CPU.
    `matmul_ceiling` (FLOP/s) and `copy_ceiling` (bytes/s) are this machine's, measured.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    calls: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0
    matmul_ceiling: float = 0.0
    copy_ceiling: float = 0.0

    @property
    def matmul_share(self) -> float:
        """The FLOP/s, as a share of the matmul ceiling."""
        return self.flops / self.seconds / self.matmul_ceiling if self.seconds else 0.0

    @property
    def copy_share(self) -> float:
        """The bytes a second, as a share of the copy ceiling; above 1 where caches serve them."""
        return self.bytes / self.seconds / self.copy_ceiling if self.seconds else 0.0

    @property
    def bound(self) -> str:
        """ "compute" or "memory": what takes longer at the ceilings."""
        computing, moving = self.flops / self.matmul_ceiling, self.bytes / self.copy_ceiling
        return "compute" if computing > moving else "memory"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with what follows from them."""
        derived = ("matmul_share", "copy_share", "bound")
        values = {**vars(self), "shapes": [list(shape) for shape in self.shapes]}
        return {**values, **{name: getattr(self, name) for name in derived}}


@dataclass(frozen=True)
class Profile:
    """The operations of one call, the longest first, and what a call takes that nobody watches."""

    operations: tuple[Operation, ...]
    seconds: float

    def by_operator(self) -> list[Operation]:
        """The same with all shapes of an operator in one, the shapes left out."""
        merged: dict[tuple[str, str], Operation] = {}
        for each in self.operations:
            one = merged.setdefault(
                (each.name, each.dtype),
                Operation(
                    each.name,
                    (),
                    each.dtype,
                    matmul_ceiling=each.matmul_ceiling,
                    copy_ceiling=each.copy_ceiling,
                ),
            )
            for name in ("calls", "flops", "bytes", "seconds"):
                setattr(one, name, getattr(one, name) + getattr(each, name))
        return sorted(merged.values(), key=lambda each: -each.seconds)

    def bound_seconds(self) -> Mapping[str, float]:
        """Seconds in operators that are bound by "compute" and by "memory"."""
        found = {"compute": 0.0, "memory": 0.0}
        for each in self.operations:
            found[each.bound] += each.seconds
        return found


@dataclass
class _Watch:
    """What has been seen of each operation so far, and the label of its calls."""

    seen: dict[Key, Operation] = field(default_factory=dict)
    labels: dict[Key, str] = field(default_factory=dict)

    def label(self, key: Key) -> str:
        """A name for the profiler that stands for one operation."""
        if key not in self.seen:
            self.seen[key] = Operation(*key)
            self.labels[key] = f"{_LABEL}{len(self.labels)}"
        return self.labels[key]


def profile(call: Callable[[], object], where: torch.device) -> Profile:
    """Call twice to warm up, once for the time it takes, once watched.

    What a compiler has made of operators is out of sight.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    from . import measure

    call()
    _, seconds = measure.timed(call)  # type: ignore[arg-type]
    watch = _Watch()
    activities = [ProfilerActivity.CPU]
    if where.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profiled(activities=activities, acc_events=True) as profiler, _watching(watch):
        call()
        measure.synchronise()
    _add_seconds(watch, profiler.key_averages(), where)
    for each in watch.seen.values():
        each.matmul_ceiling = device.matmul_ceiling(where, _multiplied(each.dtype))
        each.copy_ceiling = device.copy_ceiling(where)
    operations = sorted(watch.seen.values(), key=lambda each: -each.seconds)
    return Profile(tuple(operations), seconds)


def _add_seconds(watch: _Watch, events: Sequence[Any], where: torch.device) -> None:
    """The profiler's time for each label: that of the kernels begun under it, on a GPU."""
    keys = {label: key for key, label in watch.labels.items()}
    for event in events:
        key = keys.get(event.key)
        if key is not None and event.device_type.name == "CPU":
            on_gpu = where.type == "cuda"
            microseconds = event.device_time_total if on_gpu else event.cpu_time_total
            watch.seen[key].seconds += microseconds / 1e6


def _multiplied(dtype: str) -> torch.dtype:
    """The dtype whose matmul ceiling an operator of `dtype` is held against."""
    import torch

    found: torch.dtype = getattr(torch, dtype)
    return found if found.is_floating_point and found.itemsize in (2, 4) else torch.float32


def _watching(watch: _Watch) -> Any:
    """A dispatch mode that counts every operator that computes, and labels it for the profiler."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if _is_view(func):
                return func(*args, **kwargs)
            key = _key(func, [*args, *kwargs.values()])
            with torch.profiler.record_function(watch.label(key)):
                output = func(*args, **kwargs)
            seen = watch.seen[key]
            seen.calls += 1
            seen.flops += _flops(func, args, kwargs, output)
            seen.bytes += sum(map(_bytes, _tensors([*args, *kwargs.values(), output])))
            return output

    return Watching()


def _is_view(func: Any) -> bool:
    """Whether all that an operator returns is a look at its inputs, or no tensor at all."""
    returned = func._schema.returns
    return all(
        str(each.type) != "Tensor" if each.alias_info is None else not each.alias_info.is_write
        for each in returned
    )


def _key(func: Any, values: Sequence[Any]) -> Key:
    tensors = list(_tensors(values))
    name = str(func).removeprefix("aten.").removesuffix(".default")
    floats = [each.dtype for each in tensors if each.dtype.is_floating_point]
    dtype = str(floats[0] if floats else "torch.float32").removeprefix("torch.")
    return name, tuple(tuple(each.shape) for each in tensors), dtype


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    import torch
    from torch.utils import _pytree

    yield from (each for each in _pytree.tree_leaves(values) if isinstance(each, torch.Tensor))


def _bytes(tensor: torch.Tensor) -> int:
    """What a tensor holds: an expanded one no more than its memory."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _flops(func: Any, args: Any, kwargs: Any, output: Any) -> float:
    import torch
    from torch.utils.flop_counter import flop_registry, sdpa_flop_count

    packet = func._overloadpacket
    if packet in flop_registry:
        return float(flop_registry[packet](*args, **kwargs, out_val=output))
    if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        return float(sdpa_flop_count(*(each.shape for each in args[:3])))
    return 0.0
