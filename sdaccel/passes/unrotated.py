"""The norm of query or key, waiting for its rotation by position: one pass instead of two or ten.

Between the two a processor unflattens heads, slices, or joins the text's query and the picture's:
all of these are views of what is not yet normalised, or one copy of it. Norm and rotation then work
in place, which is why only processors stand here whose query and key are fresh projections that
nobody else reads. Whatever else it is asked for, it computes the norm, not in place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .pending import Pending

if TYPE_CHECKING:
    import torch

FUSED = "q/k norms fused with their rotation"


@dataclass(frozen=True)
class HeadNorm:
    """The norm of query or key: of each head (B, ..., D), or across heads (B, S, H * D).

    `stays_flat` says that what is normalised across heads is rotated before it is unflattened.
    """

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    kind: Literal["rms", "layer"]
    eps: float
    stays_flat: bool = False

    @classmethod
    def of(cls, norm: Any, eps: float, stays_flat: bool = False) -> HeadNorm:
        """What a module of torch or diffusers computes, by these weights.

        They are detached: hooks that offload weights give a parameter other data after its call.
        """
        weight, bias = norm.weight, getattr(norm, "bias", None)
        return cls(
            None if weight is None else weight.detach(),
            None if bias is None else bias.detach(),
            "rms" if "RMSNorm" in type(norm).__name__ else "layer",
            eps,
            stays_flat,
        )

    def out_of_place(self, x: torch.Tensor) -> torch.Tensor:
        """The norm over the last dimension of x."""
        from ..kernels.norm_modulate import norm_modulate

        return norm_modulate(x, weight=self.weight, bias=self.bias, kind=self.kind, eps=self.eps)

    def in_place(self, x: torch.Tensor, across_heads: bool, **rotation: Any) -> None:
        """Normalise and rotate x (B, S, H, D) where it lies."""
        from ..kernels.qk_norm_rope import qk_norm_rope

        nothing, cut = x[:, :, :0], 0 if across_heads else None
        qk_norm_rope(
            x,
            nothing,
            query_weight=self.weight,
            key_weight=None if self.weight is None else self.weight[:cut],
            query_bias=self.bias,
            key_bias=None if self.bias is None else self.bias[:cut],
            norm=self.kind,
            across_heads=across_heads,
            eps=self.eps,
            **rotation,
        )


class Unrotated(Pending):
    """The norm of a fresh projection, not yet computed; `ran` counts what was fused.

    `across_heads`: of all heads of x (B, S, H, D) together, since it was unflattened. `slice_of`
    says of what this is a slice, and by which index.
    """

    def __init__(
        self,
        x: torch.Tensor,
        norm: HeadNorm,
        ran: Counter[str],
        across_heads: bool = False,
        slice_of: tuple[Unrotated, Any] | None = None,
    ) -> None:
        super().__init__(x)
        self._norm = norm
        self._ran = ran
        self._across_heads = across_heads
        self._slice_of = slice_of
        self._spent = False

    def _check_unchanged(self) -> None:
        """Query and key may be views of one projection, whose version counts for both."""
        if self._spent:
            raise RuntimeError(
                "The norm of query or key was used again after its rotation; leave the pass 'fuse' "
                "out for this model."
            )

    def _compute(self) -> torch.Tensor:
        if self._slice_of is not None and not self._slice_of[0]._spent:
            whole, index = self._slice_of
            return whole.value()[index]
        if self._across_heads:
            return self._norm.out_of_place(self._like.flatten(2)).view(self._like.shape)
        return self._norm.out_of_place(self._like)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """It goes on waiting where its own dtype is all that is asked for."""
        asked = (*args, *kwargs.values())
        if self._value is None and len(asked) == 1 and asked[0] is self.dtype:
            return self
        return self.value().to(*args, **kwargs)

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Any:
        """Heads, after a norm across them: a view that still waits."""
        flat = self._like.dim() == 3 and dim in (2, -1) and not self._norm.stays_flat
        if self._value is None and flat:
            return Unrotated(self._like.unflatten(dim, sizes), self._norm, self._ran, True)
        return self.value().unflatten(dim, sizes)

    def view(self, *sizes: Any) -> Any:
        """Heads by way of `view`, as by `unflatten`."""
        if self._value is None and self._like.dim() == 3 and len(sizes) == 4:
            heads = self._like.view(*sizes)
            if heads.shape[:2] == self._like.shape[:2]:
                return self.unflatten(2, heads.shape[2:])
        return self.value().view(*sizes)

    def __getitem__(self, index: Any) -> Any:
        indices = index if isinstance(index, tuple) else (index,)
        slices = all(type(each) is slice for each in indices)
        whole = len(indices) < self._like.dim() or indices[-1] == slice(None)
        if self._value is None and slices and whole:
            x = self._like[index]
            return Unrotated(x, self._norm, self._ran, self._across_heads, (self, index))
        return self.value()[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        """Tokens from one on, rotated in place: then only those before are still to normalise."""
        if self._value is None and _is_rest(value, self._like, index):
            dim = _sliced(index)
            head = self._like.narrow(dim, 0, index[dim].start)
            self._norm.in_place(tokens_first(head, dim), self._across_heads)
            self._value = self._like
        else:
            self.value()[index] = value

    def _called(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "type_as" and args[0] is not self:
            return args[0].to(self.dtype)
        joined = name in ("cat", "concat") and isinstance(args[0], (list, tuple))
        if not joined or not all(type(each) is Unrotated for each in args[0]):
            return NotImplemented
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        if dim not in (1, 2) or any(each._value is not None for each in args[0]):
            return NotImplemented
        return Joined(args[0], dim, self._ran)

    def rotated(
        self, sequence_dim: int, cos: torch.Tensor, sin: torch.Tensor, heads: int = 1, **form: Any
    ) -> Any:
        """The norm, rotated: what was the projection; `heads` of what lies flat."""
        if self._value is not None:
            x = self._value.clone()
            rotate_in_place(x, sequence_dim, heads, cos=cos, sin=sin, **form)
            return x
        self._check_unchanged()
        self._ran[FUSED] += 1
        x = tokens_first(self._like, sequence_dim, heads)
        self._norm.in_place(x, self._across_heads or heads > 1, cos=cos, sin=sin, **form)
        self._spent = True
        if self._slice_of is not None:
            self._slice_of[0]._spent = True
        return self._like


class Joined(Pending):
    """Several such norms, each of its own tokens, one behind the other along `dim`."""

    def __init__(self, parts: Sequence[Unrotated], dim: int, ran: Counter[str]) -> None:
        super().__init__(parts[0]._like)
        self._parts = list(parts)
        self._dim = dim
        self._ran = ran

    @property
    def shape(self) -> torch.Size:
        """The shape, known before anything is computed."""
        import torch

        sizes = list(self._like.shape)
        sizes[self._dim] = sum(each.shape[self._dim] for each in self._parts)
        return torch.Size(sizes)

    def _compute(self) -> torch.Tensor:
        return self._in_place({})

    def rotated(
        self, sequence_dim: int, cos: torch.Tensor, sin: torch.Tensor, heads: int = 1, **form: Any
    ) -> Any:
        """All of them normalised and rotated, in one tensor."""
        if self._value is not None or sequence_dim != self._dim or heads > 1:
            x = self.value().clone()
            rotate_in_place(x, sequence_dim, heads, cos=cos, sin=sin, **form)
            return x
        self._ran[FUSED] += 1
        return self._in_place({"cos": cos, "sin": sin}, **form)

    def _in_place(self, tables: dict[str, torch.Tensor], **form: Any) -> torch.Tensor:
        import torch

        for each in self._parts:
            each._check_unchanged()
        x = torch.cat([each._like for each in self._parts], self._dim)
        start = 0
        for each in self._parts:
            length = each.shape[self._dim]
            own = tokens_first(x.narrow(self._dim, start, length), self._dim)
            rows = {
                name: table.narrow(0 if table.dim() == 2 else 1, start, length)
                for name, table in tables.items()
            }
            each._norm.in_place(own, each._across_heads, **rows, **form)
            start += length
        return x


def tokens_first(x: torch.Tensor, sequence_dim: int, heads: int = 1) -> torch.Tensor:
    """x as (B, S, H, D), a view; heads that lie flat are one, unless it is said how many."""
    if x.dim() == 3:
        return x.view(*x.shape[:2], heads, x.shape[2] // heads)
    return x if sequence_dim == 1 else x.transpose(1, 2)


def rotate_in_place(x: torch.Tensor, sequence_dim: int, heads: int = 1, **rotation: Any) -> None:
    """Rotate x where it lies; nothing is normalised."""
    from ..kernels.qk_norm_rope import qk_norm_rope

    x = tokens_first(x, sequence_dim, heads)
    qk_norm_rope(x, x[:, :, :0], norm=None, **rotation)


def _sliced(index: Sequence[slice]) -> int:
    """The last dimension of which an index doesn't mean everything."""
    return max((dim for dim, each in enumerate(index) if each != slice(None)), default=0)


def _is_rest(value: Any, x: torch.Tensor, index: Any) -> bool:
    """Whether an index means all tokens from one on, and `value` is the view of x of just these."""
    import torch

    if not isinstance(index, tuple) or not all(type(each) is slice for each in index):
        return False
    dim = _sliced(index)
    tokens = index[dim]
    return (
        all(each == slice(None) for each in (*index[:dim], *index[dim + 1 :]))
        and isinstance(tokens.start, int)
        and tokens.start >= 0
        and tokens.stop is None
        and tokens.step is None
        and isinstance(value, torch.Tensor)
        and value.shape == x[index].shape
        and value.stride() == x[index].stride()
        and value.data_ptr() == x[index].data_ptr()
    )
