"""GroupNorm, and the SiLU that follows it, in machine code on a CPU.

Of a large channels-last map neither torch nor Inductor reads and writes as fast as memory would let
them, and a decoder's maps are the largest of a pipeline. The op is one node to the compiler, so
models whose maps are small keep their norms, and what is fused with them. On a GPU the norms are
`fuse`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..kernels.group_norm_silu import group_norm_silu
from .base import Effect, Pass
from .fuse import WHO, runs_of_ops
from .group_norms import norm_before_attention, norm_then_silu
from .memory_format import is_channels_last
from .swap import RAN, Forward, Swap

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target

_WORTHWHILE = 1 << 23
"""Elements of a model's largest map, at the size it is made for: 33 million in SD1.5's decoder. Its
UNet, with 1.3 million, is as fast with Inductor's norms, which take the sums around them along."""


@dataclass(frozen=True)
class GroupNorm(Pass):
    """GroupNorms of denoisers and VAEs in machine code, with SiLU where it follows."""

    name: ClassVar[str] = "group_norm"
    summary: ClassVar[str] = "GroupNorm and SiLU in machine code on a CPU with AVX-512"
    effect: ClassVar[Effect] = Effect.EXACT
    order: ClassVar[int] = 76

    def refusal(self, target: Target) -> str | None:
        from ..kernels.group_norm_native import unavailable

        if target.device.type != "cpu":
            return "it is for CPUs: on a GPU `fuse` does it"
        return unavailable()

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        for component, model in target.each(record, "denoiser", "vae", weights=False):
            reason = _unsuited(model)
            found = [] if reason else list(_swaps(model))
            if not found:
                record.refuse(component.name, reason or "it has no GroupNorm that is known")
                continue
            with patch.scope(model):
                for swap in found:
                    patch.set_class(swap.owner, swap.subclass)
                    # No counter, which compilers would guard: a call is counted from outside.
                    patch.set(swap.owner, RAN, True)
                    record.changed.update(
                        {f"{component.name} {label}": count for label, count in swap.counts.items()}
                    )
                _count_ops(component, patch, record)


def _count_ops(component: Component, patch: Patch, record: PassRecord) -> None:
    """Count who computed the op in each call of a component."""
    before: Counter[str] = Counter()

    def begin(*_: Any) -> None:
        before.clear()
        before.update(runs_of_ops()["group_norm_silu"])

    def end(*_: Any) -> None:
        for who, count in (runs_of_ops()["group_norm_silu"] - before).items():
            record.ran[f"group_norm_silu by {WHO[who]}"] += count

    patch.add_handle(component.entry.register_forward_pre_hook(begin))
    patch.add_handle(component.entry.register_forward_hook(end))


def _unsuited(model: Any) -> str | None:
    if not is_channels_last(model):
        return "its maps are in stock's order, which compiled code changes back and forth around it"
    largest = _largest(model.config)
    if largest is not None and largest < _WORTHWHILE:
        return f"its maps are small, {largest:,} elements at most: norms are as fast as they are"
    return None


def _largest(config: Any) -> int | None:
    """Elements of the largest map of a sample, at the size that the model is made for."""
    size, channels = config.get("sample_size"), config.get("block_out_channels")
    if not size or not channels:
        return None
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return int(height * width * channels[0])


def _swaps(model: Any) -> Iterator[Swap]:
    """The norms whose SiLU is known to follow, then those before attention; each once."""
    owners = Counter(id(child) for module in model.modules() for child in module.children())
    done: set[int] = set()
    for module in model.modules():
        with_silu = norm_then_silu(module, owners, _normed_and_activated)
        for swap in (*with_silu, *norm_before_attention(module, _normed)):
            if id(swap.owner) not in done:
                done.add(id(swap.owner))
                yield swap


def _normed_and_activated(stock: Forward) -> Forward:
    return _by_the_op(stock, silu=True)


def _normed(stock: Forward) -> Forward:
    return _by_the_op(stock, silu=False)


def _by_the_op(stock: Forward, silu: bool) -> Forward:
    """The op, for compilers as well, which see it as one node; with gradients on, stock."""
    import torch

    def forward(self: Any, hidden_states: Any) -> Any:
        if torch.is_grad_enabled() or not isinstance(hidden_states, torch.Tensor):
            normed = stock(self, hidden_states)
            return torch.nn.functional.silu(normed) if silu else normed
        affine = self.num_groups, self.weight, self.bias
        return group_norm_silu(hidden_states, *affine, eps=self.eps, silu=silu)

    return forward
