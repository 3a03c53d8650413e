"""Classifier-free guidance that waits for the scheduler's step, which then combines the branches.

Pipelines write `uncond + scale * (cond - uncond)`: three passes over memory and two tensors that
nobody else reads. A denoiser's output that is a `Branch` goes through that arithmetic as it is, and
comes out as a `Prediction`, which a step of `sdaccel.schedulers` takes apart again: on a device the
combination is part of the step's one launch, on a CPU it is one operation. For whatever else
anybody does with one of them, it is the tensor that stock would have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..schedulers.guided import Guided, Late
from ..schedulers.tabled import Tabled
from .pending import Pending, version_of

if TYPE_CHECKING:
    import torch

    from ..clock import Clock
    from ..patch import Patch
    from ..target import Component, Target


class _Waiting(Pending, Late):
    """Made of tensors that must stay as they are for as long as it waits."""

    __array_ufunc__ = None  # a number of numpy's leaves its product to it, as it does to a tensor

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__(tensors[0])
        self._tensors = tensors
        self._versions = [version_of(each) for each in tensors]

    def _check_unchanged(self) -> None:
        if [version_of(each) for each in self._tensors] != self._versions:
            raise RuntimeError(
                "A branch of guidance was changed in place before the step that combines it; "
                "leave the pass 'schedulers' out for this pipe."
            )


class Branch(_Waiting):
    """What a denoiser has put out for one branch, or for both: the tensor as it is."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor)
        self._value = tensor

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Any, ...]:
        """The branches of a batch, each a `Branch`."""
        return tuple(map(Branch, self._like.chunk(chunks, dim)))

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, Branch) and _are_alike(self._like, other._like):
            return _Difference(self._like, other._like)
        return self._like - other  # torch asks a `Branch` for its value

    def _plus(self, other: Any) -> Any:
        return other.added_to(self._like) if type(other) is _Difference else self._like + other


class _Difference(_Waiting):
    """The conditional branch less the other, times a scale where there is one."""

    def __init__(
        self, conditional: torch.Tensor, unguided: torch.Tensor, scale: float | None = None
    ) -> None:
        super().__init__(conditional, unguided)
        self._scale = scale

    def added_to(self, branch: torch.Tensor) -> Any:
        """The sum with a branch, which is the guided prediction where it is the unguided one."""
        conditional, unguided = self._tensors
        if branch is not unguided or self._scale is None:
            return branch + self.value()
        self._check_unchanged()
        return Prediction(unguided, conditional, self._scale)

    def _times(self, other: Any) -> Any:
        if self._scale is None and isinstance(other, (int, float)):
            conditional, unguided = self._tensors
            return _Difference(conditional, unguided, float(other))
        return self.value() * other

    def _compute(self) -> torch.Tensor:
        difference = self._tensors[0] - self._tensors[1]
        return difference if self._scale is None else self._scale * difference


class Prediction(_Waiting, Guided):
    """The guided prediction; in 16 bit it is rounded once, where stock rounds at each operation."""

    def __init__(self, unguided: torch.Tensor, conditional: torch.Tensor, scale: float) -> None:
        super().__init__(unguided, conditional)
        self.unguided, self.conditional, self.scale = unguided, conditional, scale

    def check_unchanged(self) -> None:
        """Raise RuntimeError where one of the two was written to in place meanwhile."""
        self._check_unchanged()

    def _compute(self) -> torch.Tensor:
        import torch

        return torch.lerp(self.unguided, self.conditional, self.scale)


def attach(component: Component, target: Target, patch: Patch) -> None:
    """Let a denoiser put out branches while the pipe runs with a stand-in for its scheduler."""
    clock, pipe = target.clock, target.pipe

    def after(_: Any, __: Any, output: Any) -> Any:
        if not _combines(clock, pipe) or type(output) is not tuple:
            return None
        return (Branch(output[0]), *output[1:]) if _is_plain(output[0]) else None

    patch.add_handle(component.entry.register_forward_hook(after))


def _combines(clock: Clock, pipe: Any) -> bool:
    """Whether a step of ours comes after this forward, of a pipe that guides."""
    import torch

    if not clock.running or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return isinstance(clock.scheduler, Tabled) and bool(
        getattr(pipe, "do_classifier_free_guidance", True)
    )


def _is_plain(tensor: Any) -> bool:
    import torch

    return type(tensor) is torch.Tensor and tensor.is_floating_point()


def _are_alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
