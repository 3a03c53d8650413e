"""Where attention is called in a self-attention: what asks the state, and else calls stock."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .sparse_attention_state import SparseState

Function = Callable[..., Any]
_ASKED = "with a mask, or a backend or arguments of its own"


class Layer:
    """Stands where a self-attention's `forward` is looked up: it tells the state that it runs."""

    def __init__(self, attention: Any, state: SparseState, in_the_middle: bool) -> None:
        functools.update_wrapper(self, attention.forward)
        self._stock: Function = attention.forward
        self._state = state
        self._in_the_middle = in_the_middle

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._state.enter(self._in_the_middle)
        try:
            return self._stock(*args, **kwargs)
        finally:
            self._state.leave()


def sparse_stand_ins(state: SparseState) -> list[tuple[Function, Function]]:
    """Each function that processors call, with what takes its place."""
    from diffusers.models import attention_dispatch

    stock = torch.nn.functional.scaled_dot_product_attention
    dispatch = attention_dispatch.dispatch_attention_fn
    return [(stock, _for_torch(state, stock)), (dispatch, _for_diffusers(state, dispatch))]


def _for_torch(state: SparseState, stock: Function) -> Function:
    """Heads before tokens: query (B, H, S, D), key and value (B, Hk, T, D)."""
    signature = inspect.signature(_arguments_of_torch)

    def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> Any:
        given = _bound(signature, args, kwargs)
        if not _is_plain(given):
            state.decline(_ASKED)
            return stock(*args, **kwargs)
        found = state.attend(
            *(given["query"], given["key"], given["value"], given["scale"]),
            lambda: stock(*args, **kwargs),
        )
        return stock(*args, **kwargs) if found is None else found

    return scaled_dot_product_attention


def _for_diffusers(state: SparseState, stock: Function) -> Function:
    """Tokens before heads. A backend that the user has chosen is kept, and so is parallelism."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    signature = inspect.signature(stock)
    registry, native = _AttentionBackendRegistry, AttentionBackendName.NATIVE

    def dispatch_attention_fn(*args: Any, **kwargs: Any) -> Any:
        given = _bound(signature, args, kwargs)
        own = given["backend"] is not None or registry._active_backend != native
        if own or given["parallel_config"] is not None or not _is_plain(given):
            state.decline(_ASKED)
            return stock(*args, **kwargs)
        query, key, value = (given[name].transpose(1, 2) for name in ("query", "key", "value"))

        def dense() -> Any:
            return stock(*args, **kwargs).transpose(1, 2)

        found = state.attend(query, key, value, given["scale"], dense)
        return stock(*args, **kwargs) if found is None else found.transpose(1, 2)

    return dispatch_attention_fn


def _arguments_of_torch(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> None:
    """The signature of torch's attention, which can't be inspected."""


def _bound(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _is_plain(given: dict[str, Any]) -> bool:
    """Whether nothing is asked for that blocks don't know: a mask, dropout, order in time."""
    return (
        given["attn_mask"] is None
        and not given["dropout_p"]
        and not given["is_causal"]
        and not given.get("attention_kwargs")
        and not torch.is_autocast_enabled(given["query"].device.type)
    )
