"""What stands where attention is called: it asks the router, and else calls stock as it was."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from .attention_router import Router

Function = Callable[..., Any]
_KNOWN = (
    *("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"),
    *("attention_kwargs", "backend", "parallel_config"),
)


def stand_ins(router: Router) -> list[tuple[Function, Function]]:
    """Each function that models call, with what takes its place; diffusers' only as it is known."""
    from diffusers.models import attention_dispatch

    pairs = [(torch.nn.functional.scaled_dot_product_attention, _for_torch(router))]
    dispatch = attention_dispatch.dispatch_attention_fn
    if tuple(inspect.signature(dispatch).parameters) == _KNOWN:
        pairs.append((dispatch, _for_diffusers(router, dispatch)))
    else:
        router.record.note("diffusers' dispatcher has changed: what goes through it is left alone")
    return pairs


def _for_torch(router: Router) -> Function:
    stock = torch.nn.functional.scaled_dot_product_attention

    def scaled_dot_product_attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        way = router.way(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        if way is not None:
            return way(query, key, value, attn_mask, is_causal, scale)
        return stock(
            *(query, key, value, attn_mask, dropout_p, is_causal),
            scale=scale,
            enable_gqa=enable_gqa,
        )

    return scaled_dot_product_attention


def _for_diffusers(router: Router, stock: Function) -> Function:
    """Rows are tokens there: query (B, S, H, D), key and value (B, T, Hk, .).

    A backend that the user has chosen, for a processor or for all, is kept, and so is context
    parallelism.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    ran: Counter[str] = router.record.ran
    registry, native = _AttentionBackendRegistry, AttentionBackendName.NATIVE

    def dispatch_attention_fn(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        attention_kwargs: dict[str, Any] | None = None,
        *,
        backend: Any = None,
        parallel_config: Any = None,
    ) -> Any:
        chosen = backend
        if backend is None and registry._active_backend != native:
            chosen = registry._active_backend
        if chosen is None and parallel_config is None and not attention_kwargs:
            q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
            mask = _of_keys(attn_mask, query, key)
            way = router.way(q, k, v, mask, dropout_p, is_causal, scale, enable_gqa)
            if way is not None:
                return way(q, k, v, mask, is_causal, scale).transpose(1, 2)
        elif not torch.compiler.is_compiling():
            ran[_why(chosen, parallel_config)] += 1
        return stock(
            *(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa),
            attention_kwargs,
            backend=backend,
            parallel_config=parallel_config,
        )

    return dispatch_attention_fn


def _of_keys(mask: Any, query: torch.Tensor, key: torch.Tensor) -> Any:
    """A mask (B, T) of keys is for all heads and queries, unless it is one (S, T) for the batch."""
    if mask is not None and mask.dim() == 2 and mask.shape == (query.shape[0], key.shape[1]):
        return mask[:, None, None]
    return mask


def _why(chosen: Any, parallel_config: Any) -> str:
    if parallel_config is not None:
        return "stock, in parallel over devices"
    if chosen is not None:
        return f"{getattr(chosen, 'value', chosen)}, as the user chose"
    return "stock, with arguments of its own"
