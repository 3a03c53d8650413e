"""A norm that waits for what comes next, so that norm, scale and shift are one pass over memory.

Transformers of diffusion models write `norm(x) * (1 + scale) + shift` in some 60 files, in as many
ways. Here the norm returns a `Deferred`, which takes a product and a sum and then computes all
three at once. Whatever else it is asked for, it computes the norm, once, and is that tensor.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PRODUCTS = {"mul", "multiply", "__mul__", "__rmul__"}
_SUMS = {"add", "__add__", "__radd__"}


class Deferred:
    """The norm of `hidden_states` (B, ..., C), times `factor` where there is one, not yet computed.

    `norm` holds the op's arguments by name (weight, bias, kind, eps), `ran` counts what was fused.
    """

    def __init__(
        self,
        hidden_states: torch.Tensor,
        norm: dict[str, Any],
        ran: Counter[str],
        factor: torch.Tensor | None = None,
    ) -> None:
        self._hidden_states = hidden_states
        self._norm = norm
        self._ran = ran
        self._factor = factor
        self._version = _version(hidden_states)
        self._value: torch.Tensor | None = None

    def value(self) -> torch.Tensor:
        """The tensor that this stands for."""
        if self._value is None:
            self._value = self._compute(self._factor, None)
        return self._value

    def _compute(self, factor: Any, summand: Any) -> torch.Tensor:
        from ..kernels.norm_modulate import norm_modulate

        if _version(self._hidden_states) != self._version:
            raise RuntimeError(
                "The input of a norm was changed in place before the norm was used; leave the pass "
                "'fuse' out for this model."
            )
        if factor is not None or summand is not None:
            self._ran["norms fused with their modulation"] += 1
        return norm_modulate(self._hidden_states, factor, summand, scale_offset=0.0, **self._norm)

    def __mul__(self, other: Any) -> Any:
        if self._factor is None and self._value is None and self._takes(other):
            return Deferred(self._hidden_states, self._norm, self._ran, other)
        return self.value() * other

    def __add__(self, other: Any) -> Any:
        if self._value is None and self._takes(other):
            return self._compute(self._factor, other)
        return self.value() + other

    __rmul__, __radd__ = __mul__, __add__

    def _takes(self, other: Any) -> bool:
        """Whether the result with `other` has the shape and dtype of the norm."""
        import torch

        x = self._hidden_states
        return (
            isinstance(other, torch.Tensor)
            and other.device == x.device
            and other.dtype == x.dtype
            and other.dim() <= x.dim()
            and all(
                size in (1, wanted)
                for size, wanted in zip(other.shape[::-1], x.shape[::-1], strict=False)
            )
        )

    @property
    def shape(self) -> torch.Size:
        """The shape, known before anything is computed."""
        return self._hidden_states.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype, known before anything is computed."""
        return self._hidden_states.dtype

    @property
    def device(self) -> torch.device:
        """The device, known before anything is computed."""
        return self._hidden_states.device

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.value(), name)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if len(args) == 2 and not kwargs and name in _PRODUCTS | _SUMS:
            own, other = args if isinstance(args[0], cls) else args[::-1]
            return own * other if name in _PRODUCTS else own + other
        from torch.utils import _pytree

        leaves, structure = _pytree.tree_flatten((args, kwargs or {}))
        plain = [each.value() if isinstance(each, cls) else each for each in leaves]
        arguments, named = _pytree.tree_unflatten(plain, structure)
        return function(*arguments, **named)


def _version(tensor: torch.Tensor) -> int | None:
    """How often a tensor was written in place; None in inference mode, where nobody counts."""
    return None if tensor.is_inference() else tensor._version


def _operator(name: str) -> Any:
    def apply(self: Deferred, *others: Any) -> Any:
        return getattr(self.value(), name)(*others)

    return apply


for _name in (
    *("__sub__", "__rsub__", "__truediv__", "__rtruediv__", "__neg__", "__pow__", "__matmul__"),
    *("__getitem__", "__len__", "__iter__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__"),
):
    setattr(Deferred, _name, _operator(_name))
