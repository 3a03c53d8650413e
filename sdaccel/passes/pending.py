"""A tensor that waits for what comes next, so that several steps become one pass over memory.

Whatever else it is asked for, it computes itself, once, and is that tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PRODUCTS = {"mul", "multiply", "__mul__", "__rmul__"}
_SUMS = {"add", "__add__", "__radd__"}


class Pending:
    """A tensor of the shape, dtype and device of `like`, not yet computed.

    No abstract base class: each forward asks a hundred times whether something is one of these,
    and is answered seven times as fast.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self._like = like
        self._version = version_of(like)
        self._value: torch.Tensor | None = None

    def _compute(self) -> torch.Tensor:
        """The tensor that this stands for."""
        raise NotImplementedError

    def value(self) -> torch.Tensor:
        """The tensor that this stands for, computed once."""
        if self._value is None:
            self._check_unchanged()
            self._value = self._compute()
        return self._value

    def _check_unchanged(self) -> None:
        if version_of(self._like) != self._version:
            raise RuntimeError(
                f"What a {type(self).__name__.lower()} tensor is computed from was changed in "
                "place before it was used; leave the pass 'fuse' out for this model."
            )

    def _times(self, other: Any) -> Any:
        """The product with something; what can wait on goes on waiting."""
        return self.value() * other

    def _plus(self, other: Any) -> Any:
        """The sum with something."""
        return self.value() + other

    def _called(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a function of torch gives without computing this first, else NotImplemented."""
        return NotImplemented

    def __mul__(self, other: Any) -> Any:
        return self._times(other)

    def __add__(self, other: Any) -> Any:
        return self._plus(other)

    __rmul__, __radd__ = __mul__, __add__

    @property
    def shape(self) -> torch.Size:
        """The shape, known before anything is computed."""
        return self._like.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions, known before anything is computed."""
        return self._like.ndim

    @property
    def dtype(self) -> torch.dtype:
        """The dtype, known before anything is computed."""
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        """The device, known before anything is computed."""
        return self._like.device

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.value(), name)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        from torch.utils import _pytree

        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if len(args) == 2 and not kwargs and name in _PRODUCTS | _SUMS:
            own, other = args if isinstance(args[0], cls) else args[::-1]
            return own._times(other) if name in _PRODUCTS else own._plus(other)
        leaves, structure = _pytree.tree_flatten((args, kwargs))
        own = next(each for each in leaves if isinstance(each, cls))
        result = own._called(name, args, kwargs)
        if result is not NotImplemented:
            return result
        plain = [each.value() if isinstance(each, Pending) else each for each in leaves]
        arguments, named = _pytree.tree_unflatten(plain, structure)
        return function(*arguments, **named)


def version_of(tensor: torch.Tensor) -> int | None:
    """How often a tensor was written in place; None in inference mode, where nobody counts."""
    return None if tensor.is_inference() else tensor._version


def broadcasts(other: Any, like: torch.Tensor) -> bool:
    """Whether `other` is a tensor with which `like` keeps its shape, dtype and device."""
    return fits(other, like) and bool(other.dtype == like.dtype)


def fits(other: Any, like: torch.Tensor) -> bool:
    """Whether `other` is a tensor with which `like` keeps its shape and device."""
    import torch

    if not isinstance(other, torch.Tensor) or other.device != like.device:
        return False
    given, wanted = other.shape, like.shape
    missing = len(wanted) - len(given)
    return missing >= 0 and all(
        size in (1, room) for size, room in zip(given, wanted[missing:], strict=True)
    )


def aligned(other: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`other` with as many dimensions as `like`: the ops take two for a batch of channels."""
    missing = like.dim() - other.dim()
    return other[(None,) * missing] if missing else other


def _operator(name: str) -> Any:
    def apply(self: Pending, *others: Any) -> Any:
        return getattr(self.value(), name)(*others)

    return apply


for _name in (
    *("__sub__", "__rsub__", "__truediv__", "__rtruediv__", "__neg__", "__pow__", "__matmul__"),
    *("__getitem__", "__setitem__", "__len__", "__iter__", "__bool__"),
    *("__lt__", "__le__", "__gt__", "__ge__"),
):
    setattr(Pending, _name, _operator(_name))
