"""Attention backends that diffusers takes: torch's own, FlashAttention, SageAttention.

Where one lacks its package or its hardware, diffusers refuses it, and the rung is skipped with what
diffusers says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import Skip
from .peer_tools import denoiser_of, needs_gpu

if TYPE_CHECKING:
    from .peer_tools import Change
    from .workloads import Workload

_LOWER, _EXACT = "lower precision", "exact"


def _backend(name: str, gpu: bool = True) -> Change:
    """One of `AttentionBackendName`, for the denoiser."""

    @contextmanager
    def change(pipe: Any, workload: Workload) -> Iterator[None]:
        if gpu:
            needs_gpu(pipe, f"diffusers' attention backend {name}")
        model = denoiser_of(pipe)
        if not hasattr(model, "set_attention_backend"):
            raise Skip(f"{type(model).__name__} can't be told an attention backend.")
        with _quiet(), _active_kept():
            model.set_attention_backend(name)
        _check_taken(model, name)
        try:
            yield
        finally:
            with _quiet():
                model.reset_attention_backend()

    return change


def _check_taken(model: Any, name: str) -> None:
    """Raises `Skip` where no processor looks at the backend: diffusers says nothing of it."""
    processors = [getattr(each, "processor", None) for each in model.modules()]
    if not any(getattr(each, "_attention_backend", None) is not None for each in processors):
        raise Skip(f"No attention of {type(model).__name__} asks for a backend such as {name}.")


@contextmanager
def _active_kept() -> Iterator[None]:
    """The process's backend stays what it was: diffusers makes a model's that of all."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before = registry._active_backend
    try:
        yield
    finally:
        registry._active_backend = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that attention backends are experimental."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


BACKENDS: tuple[tuple[str, str, str, Change], ...] = (
    ("attention-cudnn", "SDPA by cuDNN", _EXACT, _backend("_native_cudnn")),
    ("attention-flash-sdpa", "SDPA by torch's flash kernel", _EXACT, _backend("_native_flash")),
    ("attention-flex", "FlexAttention", _EXACT, _backend("flex", gpu=False)),
    ("flash-attention", "FlashAttention 2", _EXACT, _backend("flash")),
    ("flash-attention-3", "FlashAttention 3", _EXACT, _backend("_flash_3")),
    ("sage-attention", "SageAttention, 8 bit", _LOWER, _backend("sage")),
)
"""Name, summary, effect, and what puts it on a pipe."""
