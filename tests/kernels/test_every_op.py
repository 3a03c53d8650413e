"""Every op, in every dtype: with no samples, with one token, with rows that lie apart.

Held to its own reference, which the op's own tests hold to the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, DTYPES, TOLERANCES, relative_error

from sdaccel.kernels.ahead import FILES
from sdaccel.kernels.attention import attention
from sdaccel.kernels.attention_int8 import attention_int8
from sdaccel.kernels.attention_sparse import attention_sparse
from sdaccel.kernels.gated_activation import activated_product, activation, gated_activation
from sdaccel.kernels.gated_residual import gated_residual
from sdaccel.kernels.gated_residual_norm import gated_residual_norm, gated_residual_norm_quantized
from sdaccel.kernels.group_norm_silu import group_norm_silu
from sdaccel.kernels.linear import gated_linear, linear
from sdaccel.kernels.linear_step import ROW, linear_step
from sdaccel.kernels.norm_modulate import norm_modulate, norm_modulate_quantized
from sdaccel.kernels.operator import operators
from sdaccel.kernels.qk_norm_rope import qk_norm_rope
from sdaccel.kernels.timestep_embedding import timestep_embedding

C = 24


@dataclass
class Draw:
    """Numbers that `dtype` has; `apart`: each row lies in the middle of a longer one.

    `raised` gives the same numbers in fp32, and `seed` counts what was drawn.
    """

    batch: int
    tokens: int
    dtype: torch.dtype
    apart: bool = False
    raised: bool = False
    seed: int = 0

    def __call__(self, *shape: int) -> torch.Tensor:
        generator = torch.Generator("cpu").manual_seed(self.seed)
        self.seed += 1
        drawn = torch.randn(*shape, generator=generator, device="cpu").to(DEVICE, self.dtype)
        drawn = drawn.float() if self.raised else drawn
        if not self.apart:
            return drawn
        room = torch.full((*shape[:-1], 3 * shape[-1]), float("nan"), device=DEVICE)
        view = room.to(drawn.dtype)[..., shape[-1] : 2 * shape[-1]]
        return view.copy_(drawn)

    def rows(self) -> torch.Tensor:
        """(B, S, C)."""
        return self(self.batch, self.tokens, C)

    def samples(self) -> torch.Tensor:
        """(B, C)."""
        return self(self.batch, C)

    def heads(self) -> torch.Tensor:
        """(B, S, 2, 16)."""
        return self(self.batch, self.tokens, 2, 16)


def _dequantized(quantized: torch.Tensor, row_scale: torch.Tensor) -> torch.Tensor:
    return quantized.float() * row_scale[..., None]


def _norm_quantized(draw: Draw) -> Any:
    modulated = draw.rows(), draw.samples(), draw.samples()
    return _dequantized(*norm_modulate_quantized(*modulated, dtype="int8"))


def _sum_and_norm_quantized(draw: Draw) -> Any:
    given = draw.rows(), draw.rows(), draw.samples()
    stream, *quantized = gated_residual_norm_quantized(*given, dtype="int8")
    return stream, _dequantized(*quantized)


def _sparse(draw: Draw) -> Any:
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=DEVICE)
    qkv = draw.heads(), draw.heads(), draw.heads()
    return attention_sparse(*qkv, mask, block_size=(16, 16), layout="bshd")


def _in_place(draw: Draw) -> Any:
    query, key = draw.heads(), draw.heads()
    angles = torch.arange(float(draw.tokens), device=DEVICE)[:, None] * torch.ones(8, device=DEVICE)
    cos, sin = angles.cos(), angles.sin()
    qk_norm_rope(query, key, query_weight=draw(16), key_weight=draw(16), cos=cos, sin=sin)
    return query, key


def _step(draw: Draw) -> Any:
    table = torch.zeros(1, ROW, device=DEVICE)
    table[0, :2] = torch.tensor([0.75, -1.5])
    counter = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    dtype = torch.float32 if draw.raised else draw.dtype
    return linear_step(draw.rows(), draw.rows(), None, None, table, counter, dtype)


def _timesteps(draw: Draw) -> Any:
    dtype = torch.float32 if draw.raised else draw.dtype
    return timestep_embedding(draw(draw.batch), C, scale=100.0, dtype=dtype)


CALLS: dict[str, Callable[[Draw], Any]] = {
    "attention": lambda draw: attention(draw.heads(), draw.heads(), draw.heads(), layout="bshd"),
    "attention_int8": lambda draw: attention_int8(
        draw.heads(), draw.heads(), draw.heads(), layout="bshd"
    ),
    "attention_sparse": _sparse,
    "gated_activation": lambda draw: gated_activation(draw.rows(), draw(C)),
    "activation": lambda draw: activation(draw.rows(), draw(C)),
    "activated_product": lambda draw: activated_product(draw.rows(), draw.rows()),
    "gated_residual": lambda draw: gated_residual(draw.rows(), draw.rows(), draw.samples()),
    "gated_residual_norm": lambda draw: gated_residual_norm(
        draw.rows(), draw.rows(), draw.samples(), draw.samples(), draw.samples()
    ),
    "gated_residual_norm_quantized": _sum_and_norm_quantized,
    "group_norm_silu": lambda draw: group_norm_silu(
        draw(draw.batch, C, draw.tokens), 4, draw(C), draw(C), add=draw.samples()
    ),
    "linear": lambda draw: linear(
        draw.rows(), draw(C, C), draw(C), activation="gelu", residual=draw.rows()
    ),
    "gated_linear": lambda draw: gated_linear(draw.rows(), draw(2 * C, C), draw(2 * C)),
    "linear_step": _step,
    "norm_modulate": lambda draw: norm_modulate(draw.rows(), draw.samples(), draw.samples()),
    "norm_modulate_quantized": _norm_quantized,
    "qk_norm_rope": _in_place,
    "timestep_embedding": _timesteps,
}
"""An op on what is drawn."""

LOSSES = {
    "attention": 2,
    "attention_sparse": 2,
    "attention_int8": 0.02,
    "norm_modulate_quantized": 0.02,
    "gated_residual_norm_quantized": 0.02,
}
"""Attention rounds its weights too, so twice; 8 bits lose a hundredth."""


def test_no_op_is_left_out() -> None:
    for name in FILES:
        import_module(f"sdaccel.kernels.{name}")
    assert set(CALLS) == {name for name in operators() if not name.startswith("test")}


@contextmanager
def plain_torch() -> Iterator[None]:
    """Within it the references compute."""
    with pytest.MonkeyPatch.context() as patch:
        for operator in operators().values():
            patch.setattr(operator, "_op", operator.reference)
        yield


def both(name: str, **how: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The op's results and its reference's in fp32, of the same numbers."""
    runs = operators()[name].runs
    before = runs["kernel"]
    with torch.no_grad():
        found = CALLS[name](Draw(**how))
        assert runs["kernel"] == before + 1
        with plain_torch():
            truth = CALLS[name](Draw(**{**how, "apart": False}, raised=True))
    if isinstance(found, torch.Tensor):
        found, truth = (found,), (truth,)
    yield from zip(found, truth, strict=True)


cases = pytest.mark.parametrize("dtype", DTYPES)
ops = pytest.mark.parametrize("name", CALLS)


@cases
@ops
@pytest.mark.parametrize("form", ["one token", "rows apart"])
def test_it_is_its_reference(name: str, form: str, dtype: torch.dtype) -> None:
    apart = form == "rows apart"
    for found, truth in both(name, batch=2, tokens=5 if apart else 1, dtype=dtype, apart=apart):
        loss = LOSSES.get(name, 1)
        bound = loss * TOLERANCES[dtype] if loss >= 1 else loss
        assert found.isfinite().all()
        assert relative_error(found, truth) <= bound


@cases
@ops
def test_of_no_samples_there_is_nothing(name: str, dtype: torch.dtype) -> None:
    for found, truth in both(name, batch=0, tokens=3, dtype=dtype):
        assert found.shape == truth.shape
        assert found.numel() == 0
