"""What can compute an attention: each way by name, and the problems it is offered for.

All take query (B, H, S, D), key (B, Hk, T, D), value (B, Hk, T, Dv) with any strides, `mask` as
`scaled_dot_product_attention` takes it (True keeps, a float is added), `causal` and `scale`, and
return (B, H, S, Dv). torch's own backends are called by their operators: `sdpa_kernel` would switch
them for the whole process, and another thread's attention with them.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import handle_torch_function, has_torch_function_unary

from .attention_problem import Problem

Compute = Callable[..., torch.Tensor]
_MOST_SCORES = {"cuda": 1 << 30, "cpu": 32 << 20}
"""Bytes of scores that a way may write to memory. Beyond, flash kernels win by far: torch's is 2.5
times as fast as products at 1,024 tokens, 3.5 times at 4,096 (two cores of an AMD EPYC, Zen 5)."""


@dataclass(frozen=True)
class Candidate:
    """One way to compute attention.

    `fits` says whether it is tried on a problem, `fallbacks` counts the calls that it could not do
    by itself, and `lower_precision` that it computes in fewer bits than its input has.
    """

    name: str
    compute: Compute
    fits: Callable[[Problem], bool]
    module: str = ""
    fallbacks: Callable[[], int] = int
    lower_precision: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute", _as_one(self.compute))

    @property
    def here(self) -> bool:
        """Whether the package it needs is installed."""
        return not self.module or _found(self.module)


def _as_one(compute: Compute) -> Compute:
    """The same, which modes that watch functions of torch see as one.

    Some launch kernels, or are machine code, of which such a mode sees nothing.
    """

    @functools.wraps(compute)
    def call(query: torch.Tensor, *arguments: Any) -> torch.Tensor:
        if has_torch_function_unary(query):
            return handle_torch_function(call, (query,), query, *arguments)
        return compute(query, *arguments)

    return call


@functools.cache
def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _kernel(query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: Any) -> torch.Tensor:
    from ..kernels.attention import attention

    return attention(query, key, value, mask, scale=scale)


def _kernel_fallbacks() -> int:
    from ..kernels.operator import operators

    found = operators().get("attention")
    return found.runs["reference"] if found else 0


def _native(query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: Any) -> torch.Tensor:
    from ..kernels.attention_native import attention_native

    return attention_native(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)


def _flash(query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: Any) -> torch.Tensor:
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    found: torch.Tensor = flash(query, key, value, 0.0, causal, False, scale=scale)[0]
    return found


def _efficient(
    query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: Any
) -> torch.Tensor:
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = _bias(query, key, mask)
    found: torch.Tensor = efficient(query, key, value, bias, False, 0.0, causal, scale=scale)[0]
    return found


def _cudnn(query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: Any) -> torch.Tensor:
    cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
    options = (_bias(query, key, mask), False, 0.0, causal, False)
    found: torch.Tensor = cudnn(query, key, value, *options, scale=scale)[0]
    return found


def _bias(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> Any:
    """A mask as those operators take it: added, of full size, its rows aligned to 16 numbers."""
    if mask is None:
        return None
    mask = added(mask, query.dtype)
    keys = key.shape[2]
    if mask.shape[-1] == keys and keys % 16:
        mask = torch.nn.functional.pad(mask, (0, -keys % 16))[..., :keys]
    return mask.expand(*query.shape[:3], keys)


def added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask to be added to the scores; torch's operators would add a boolean one as 0 and 1."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    bias = torch.zeros_like(mask, dtype=dtype)
    return bias.masked_fill_(mask.logical_not(), float("-inf"))


def _math(query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: Any) -> torch.Tensor:
    plain = torch.ops.aten._scaled_dot_product_attention_math
    bias = None if mask is None else added(mask, query.dtype)
    grouped = query.shape[1] != key.shape[1]
    found: torch.Tensor = plain(
        query, key, value, bias, 0.0, causal, scale=scale, enable_gqa=grouped
    )[0]
    return found


def _products(
    query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: float | None
) -> torch.Tensor:
    """Two batched products and a softmax, a part of the heads at a time."""
    (batch, heads, queries, width), keys = query.shape, key.shape[2]
    factor = width**-0.5 if scale is None else scale
    flat = [each.reshape(batch * heads, *each.shape[2:]) for each in (query, key, value)]
    found = []
    for q, k, v in zip(*(each.split(_heads_at_once(queries, keys)) for each in flat), strict=True):
        scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=factor)
        found.append(torch.bmm(scores.softmax(-1), v))
    return torch.cat(found).view(batch, heads, queries, -1)


def _heads_at_once(queries: int, keys: int) -> int:
    """As many heads as have 64 MiB of scores."""
    return max(1, (64 << 20) // (4 * queries * keys))


def _flex(query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: Any) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    return _compiled_flex()(query, key, value, scale=scale, enable_gqa=grouped)


@functools.cache
def _compiled_flex() -> Compute:
    """One for all shapes: sizes are dynamic, so that it is compiled once for each head width."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def _flash_attn(module: str) -> Compute:
    """Tri Dao's kernels, of the package `flash_attn` or, FA3, `flash_attn_interface`."""

    def compute(
        query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: Any
    ) -> torch.Tensor:
        flash = importlib.import_module(module).flash_attn_func
        rows = (each.transpose(1, 2) for each in (query, key, value))
        result = flash(*rows, softmax_scale=scale, causal=causal)
        # FA3's first versions return the log-sum-exp as well
        found: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return found.transpose(1, 2)

    return compute


def _sage(query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: Any) -> torch.Tensor:
    sage: Compute = importlib.import_module("sageattention").sageattn
    return sage(query, key, value, tensor_layout="HND", is_causal=causal, sm_scale=scale)


# What each is offered for; what it can't do after all, it says when it is tried -----------------


def _any_head(problem: Problem) -> bool:
    """As torch's fused kernels want it: on a GPU, each head with its own key and value."""
    return problem.device == "cuda" and problem.dense and not problem.grouped


def _half_head(problem: Problem) -> bool:
    """In 16 bit and up to 256 wide, in whole 16 bytes."""
    return _any_head(problem) and problem.half and problem.width <= 256 and not problem.width % 8


def _fits_memory(problem: Problem) -> bool:
    return problem.scores <= _MOST_SCORES[problem.device]


def _aligned_causal(problem: Problem) -> bool:
    """Where a causal mask means the same to all: other libraries align it at the last token."""
    return not problem.mask and (not problem.causal or problem.queries == problem.keys)


def _plain(problem: Problem) -> bool:
    return not problem.mask and not problem.causal


def _in_parts(problem: Problem) -> bool:
    """In 16 bit the scores would be rounded on their way, which shows with some values alone."""
    usual = problem.device == "cpu" and not problem.half and not problem.grouped
    return usual and _plain(problem) and _fits_memory(problem)


def candidates() -> tuple[Candidate, ...]:
    """All of them, the one that is preferred among equals first."""
    return (
        Candidate(
            "kernel",
            _kernel,
            lambda p: p.device == "cuda" and p.dense and not p.causal and p.width <= 256,
            fallbacks=_kernel_fallbacks,
        ),
        Candidate("native", _native, lambda p: p.device == "cpu" and p.dense and _plain(p)),
        Candidate("sdpa_flash", _flash, lambda p: _half_head(p) and not p.mask),
        Candidate("sdpa_cudnn", _cudnn, _half_head),
        Candidate("sdpa_efficient", _efficient, _any_head),
        Candidate("sdpa_math", _math, _fits_memory),
        Candidate("products", _products, _in_parts),
        Candidate("flex", _flex, lambda p: p.device == "cuda" and p.dense and _plain(p)),
        *(
            Candidate(
                name,
                _flash_attn(module),
                lambda p: _half_head(p) and _aligned_causal(p),
                module=module,
            )
            for name, module in (
                ("flash_attn", "flash_attn"),
                ("flash_attn_3", "flash_attn_interface"),
            )
        ),
        Candidate(
            "sage",
            _sage,
            lambda p: _half_head(p) and _aligned_causal(p) and p.width <= 128,
            module="sageattention",
            lower_precision=True,
        ),
    )


NAMES = tuple(each.name for each in candidates())
