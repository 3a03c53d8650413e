"""What computes a rotation where processors call their own: with the norm before it, in one pass.

Each is given the stock function first, which computes what doesn't fit: values of another dtype,
with gradients, while compiling. The rest of its arguments are the stock function's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .norms import can_be_left_out
from .pending import Pending
from .swap import RAN, Forward, in_cache, plainly
from .unrotated import HeadNorm, Joined, Unrotated, rotate_in_place

if TYPE_CHECKING:
    import torch


def real(
    stock: Forward,
    x: Any,
    freqs_cis: Any,
    use_real: bool = True,
    use_real_unbind_dim: int = -1,
    sequence_dim: int = 2,
) -> Any:
    """embeddings.apply_rotary_emb: cos and sin (S, D), or complex numbers (B, S, D/2)."""
    given = (x, freqs_cis, use_real, use_real_unbind_dim, sequence_dim)
    if not use_real:
        return _complex(stock, x, freqs_cis, given)
    layout = {-1: "interleaved", -2: "half"}.get(use_real_unbind_dim)
    cos, sin = freqs_cis
    if layout is None or sequence_dim not in (1, 2) or cos.dim() != 2:
        return stock(_value(x), *given[1:])
    cos, sin = cos.to(x.device), sin.to(x.device)
    return _rotated(stock, given, sequence_dim, cos, sin, layout)


def qwen(
    stock: Forward, x: Any, freqs_cis: Any, use_real: bool = True, use_real_unbind_dim: int = -1
) -> Any:
    """Qwen-Image's: complex numbers (S, D/2)."""
    given = (x, freqs_cis, use_real, use_real_unbind_dim)
    if use_real:
        return stock(_value(x), *given[1:])
    return _complex(stock, x, freqs_cis, given)


def complex_numbers(stock: Forward, x_in: Any, freqs_cis: Any) -> Any:
    """Z-Image's: complex numbers (B, S, D/2)."""
    return _complex(stock, x_in, freqs_cis, (x_in, freqs_cis))


def strided(stock: Forward, hidden_states: Any, freqs_cos: Any, freqs_sin: Any) -> Any:
    """Wan's: cos and sin (1, S, 1, D), of which every other one is used."""
    given = (hidden_states, freqs_cos, freqs_sin)
    return _rotated(stock, given, 1, freqs_cos, freqs_sin, "interleaved")


def chunked(stock: Forward, hidden_states: Any, freqs_cis: Any) -> Any:
    """Helios': cos and sin (B, S, D) side by side, of which every other one is used."""
    cos, sin = freqs_cis.chunk(2, dim=-1)
    return _rotated(stock, (hidden_states, freqs_cis), 1, cos, sin)


def first_channels(stock: Forward, hidden_states: Any, cos: Any, sin: Any) -> Any:
    """MiniMax-H3's: cos and sin (S, R), the first R channels of a head in halves."""
    given = (hidden_states, cos, sin)
    return _rotated(stock, given, 1, cos, sin, "half", rotary_dim=cos.shape[-1])


def by_heads(stock: Forward, x: Any, freqs_cos: Any, freqs_sin: Any) -> Any:
    """Mochi's: cos and sin (S, H, D/2)."""
    return _rotated(stock, (x, freqs_cos, freqs_sin), 1, freqs_cos[None], freqs_sin[None])


def flat(stock: Forward, x: Any, freqs: Any) -> Any:
    """LTX's: cos and sin (B, S, H * D), for heads that lie flat."""
    return _rotated(stock, (x, freqs), 1, *freqs)


def flat_halves(stock: Forward, x: Any, freqs: Any) -> Any:
    """LTX 2's other: cos and sin (B, H, S, D/2), heads that lie flat and are turned in halves."""
    cos, sin = freqs
    if cos.dim() != 4 or len(x.shape) != 3:
        return stock(_value(x), freqs)
    cos, sin = cos.transpose(1, 2), sin.transpose(1, 2)
    return _rotated(stock, (x, freqs), 1, cos, sin, "half", heads=cos.shape[2])


def angles(stock: Forward, x_in: Any, freqs_cis: Any) -> Any:
    """ErnieImage's: angles (B, S, 1, R), in halves, of each channel its own."""
    if freqs_cis.dim() != 4 or not _fits(x_in, freqs_cis):
        return stock(_value(x_in), freqs_cis)
    cos, sin, width = freqs_cis.cos(), freqs_cis.sin(), freqs_cis.shape[-1]
    return _turned(x_in, 1, cos, sin, "half_each", rotary_dim=width)


def matrices(stock: Forward, xq: Any, freqs_cis: Any) -> Any:
    """PRX's: x (B, H, S, D), matrices (B, 1, S, D/2, 2, 2) of cos, -sin, sin, cos."""
    given = (xq, freqs_cis)
    if freqs_cis.dim() != 6:
        return stock(_value(xq), freqs_cis)
    return _rotated(stock, given, 2, *_of_matrices(freqs_cis[:, 0].to(xq.device)))


def matrices_in_bf16(stock: Forward, x: Any, rope: Any) -> Any:
    """Kandinsky 5's: matrices (B, S, 1, D/2, 2, 2); stock rounds to bf16, whatever x's dtype."""
    import torch

    if x.dtype != torch.bfloat16 or rope.dim() != 6:
        return stock(_value(x), rope)
    return _rotated(stock, (x, rope), 1, *_of_matrices(rope))


def both_by_matrices(stock: Forward, xq: Any, xk: Any, freqs_cis: Any) -> Any:
    """HiDream's: query and key at once, by matrices (B, S, 1, D/2, 2, 2)."""
    if freqs_cis.dim() != 6:
        return stock(_value(xq), _value(xk), freqs_cis)
    return _both(stock, xq, xk, freqs_cis, *_of_matrices(freqs_cis))


def both(stock: Forward, xq: Any, xk: Any, freqs_cis: Any) -> Any:
    """JoyImage's: query and key at once, by cos and sin (S, D) or (B, S, D)."""
    cos, sin = (each.to(xq.device) for each in freqs_cis)
    return _both(stock, xq, xk, freqs_cis, cos, sin)


def norm_in_fp32(processor: Any, norm: Any, x: Any) -> Any:
    """`norm(x.float()).type_as(x)` for a rotation that rounds to bf16: in bf16 it waits for that.

    Without an eps of its own a norm takes that of fp32.
    """
    import torch

    if x.dtype != torch.bfloat16 or not can_be_left_out(norm, x, in_fp32=True):
        return norm(x.float()).type_as(x)
    eps = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
    return Unrotated(x, HeadNorm.of(norm, eps), processor.__dict__[RAN])


def _of_matrices(rotations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of rotations (..., 2, 2), views."""
    return rotations[..., 0, 0], rotations[..., 1, 0]


def _complex(stock: Forward, x: Any, freqs: torch.Tensor, given: tuple[Any, ...]) -> Any:
    from ..kernels.rotary import tables

    if not freqs.is_complex():
        return stock(_value(x), *given[1:])
    return _rotated(stock, given, 1, *tables(freqs))


def _rotated(
    stock: Forward,
    given: tuple[Any, ...],
    sequence_dim: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    layout: str = "interleaved",
    **form: int,
) -> Any:
    """The first of `given` rotated by the op, or by the stock function if it can't."""
    x = given[0]
    if not _fits(x, cos):
        return stock(_value(x), *given[1:])
    return _turned(x, sequence_dim, cos, sin, layout, **form)


def _both(
    stock: Forward, xq: Any, xk: Any, freqs: Any, cos: torch.Tensor, sin: torch.Tensor
) -> Any:
    """Query and key rotated by the op, or both by the stock function if it can't."""
    if not all(_fits(each, cos) for each in (xq, xk)):
        return stock(_value(xq), _value(xk), freqs)
    return tuple(_turned(each, 1, cos, sin) for each in (xq, xk))


def _fits(x: Any, cos: torch.Tensor) -> bool:
    """Whether the op can rotate x, and does it faster than stock."""
    import torch

    from ..kernels.arguments import FLOATS

    known = cos.dtype in (*FLOATS, torch.float64) and cos.device == x.device
    return known and (_waits(x) or plainly(x)) and not in_cache(x)


def _turned(
    x: Any,
    sequence_dim: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    layout: str = "interleaved",
    **form: int,
) -> Any:
    """x rotated by the op."""
    import torch

    if cos.dtype == torch.float64:
        cos, sin = cos.float(), sin.float()
    if _waits(x):
        return x.rotated(sequence_dim, cos, sin, layout=layout, **form)
    rotated = x.clone()
    rotate_in_place(rotated, sequence_dim, cos=cos, sin=sin, layout=layout, **form)
    return rotated


def _waits(x: Any) -> bool:
    return isinstance(x, (Unrotated, Joined))


def _value(x: Any) -> Any:
    return x.value() if isinstance(x, Pending) else x
