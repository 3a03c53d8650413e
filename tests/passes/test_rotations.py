"""Attention processors whose rotation is fused with the norms before it."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any

import diffusers
import pytest
import tiny
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor
from diffusers.models.transformers.transformer_wan import WanAttention
from kernel_checks import noise

import sdaccel
from sdaccel.passes.rotary_calls import (
    by_heads,
    chunked,
    complex_numbers,
    first_channels,
    flat_halves,
    qwen,
    real,
    strided,
)
from sdaccel.passes.rotating_processors import PROCESSORS, Processor
from sdaccel.passes.rotations import _rewritten, rotation_rule
from sdaccel.passes.swap import RAN
from sdaccel.passes.unrotated import FUSED

X = noise(2, 6, 3, 8)
ANGLES = noise(6, 4, seed=1)
COMPLEX = torch.polar(torch.ones_like(ANGLES), ANGLES)


def fused(attention: Any) -> tuple[Any, Counter[str]]:
    ran: Counter[str] = Counter()
    for swap in list(rotation_rule(attention)):
        swap.owner.__class__ = swap.subclass
        swap.owner.__dict__[RAN] = ran
    return attention, ran


def flux_attention(**changes: Any) -> Any:
    torch.manual_seed(0)
    attention = FluxAttention(
        16, heads=2, dim_head=8, added_kv_proj_dim=16, processor=FluxAttnProcessor(), **changes
    )
    for name, weight in attention.named_parameters():
        torch.nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.3)
    return attention.eval()


def flux_inputs() -> dict[str, Any]:
    angles = noise(9, 4, seed=2).repeat_interleave(2, dim=1)
    return {
        "hidden_states": noise(2, 6, 16),
        "encoder_hidden_states": noise(2, 3, 16, seed=1),
        "image_rotary_emb": (angles.cos(), angles.sin()),
    }


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_installed_diffusers_has_the_processors_that_were_read(name: str) -> None:
    module, _, kind = name.rpartition(".")
    if diffusers.__version__ < "0.42":
        pytest.importorskip(module)
    processor = getattr(importlib.import_module(module), kind)
    found = _rewritten(processor, PROCESSORS[name])
    assert found is not None
    assert found[0].__name__ == processor.__name__


@torch.no_grad()
def test_attention_over_text_and_picture_is_stock_s_with_both_norms_fused() -> None:
    stock = flux_attention()(**flux_inputs())
    attention, ran = fused(flux_attention())
    for found, expected in zip(attention(**flux_inputs()), stock, strict=True):
        torch.testing.assert_close(found, expected)
    assert ran == {FUSED: 2}


@torch.no_grad()
def test_projections_fused_before_or_after_are_rotated_as_well() -> None:
    stock = flux_attention()(**flux_inputs())
    before, after = flux_attention(), fused(flux_attention())[0]
    before.fuse_projections()
    after.fuse_projections()
    for attention in (fused(before)[0], after):
        for found, expected in zip(attention(**flux_inputs()), stock, strict=True):
            torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_a_processor_set_afterwards_gets_the_norms_that_it_asks_for() -> None:
    stock = flux_attention()(**flux_inputs())
    attention, ran = fused(flux_attention())
    attention.set_processor(FluxAttnProcessor())
    for found, expected in zip(attention(**flux_inputs()), stock, strict=True):
        torch.testing.assert_close(found, expected)
    assert not ran


@torch.no_grad()
def test_without_tables_there_is_only_the_norm() -> None:
    inputs = flux_inputs() | {"image_rotary_emb": None}
    stock = flux_attention()(**inputs)
    attention, ran = fused(flux_attention())
    for found, expected in zip(attention(**inputs), stock, strict=True):
        torch.testing.assert_close(found, expected)
    assert not ran


def test_with_gradients_on_stock_s_own_code_runs() -> None:
    stock = flux_attention()(**flux_inputs())
    attention, ran = fused(flux_attention())
    for found, expected in zip(attention(**flux_inputs()), stock, strict=True):
        assert torch.equal(found, expected)
    assert not ran


def test_cross_attention_that_rotates_nothing_is_left() -> None:
    attention = WanAttention(16, heads=2, dim_head=8, cross_attention_dim_head=8)
    attention.processor = attention._default_processor_cls()
    assert not list(rotation_rule(attention))


def test_a_processor_that_was_changed_by_somebody_is_left() -> None:
    class Other(FluxAttnProcessor):
        pass

    attention = flux_attention()
    attention.set_processor(Other())
    assert not list(rotation_rule(attention))


def test_a_rotation_that_was_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.transformers import transformer_flux

    def apply_rotary_emb(x: Any, freqs_cis: Any, sequence_dim: int = 2) -> Any:
        return x + freqs_cis[0].sum()

    monkeypatch.setattr(transformer_flux, "apply_rotary_emb", apply_rotary_emb)
    assert _rewritten.__wrapped__(FluxAttnProcessor, Processor()) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_every_form_of_tables_rotates_as_it_is_meant(dtype: torch.dtype) -> None:
    pairs = torch.view_as_complex(X.unflatten(-1, (-1, 2)))
    expected = torch.view_as_real(pairs * COMPLEX[:, None]).flatten(-2)
    numbers = COMPLEX.to(torch.complex64 if dtype == torch.float32 else torch.complex128)
    cos, sin = ANGLES.cos().to(dtype), ANGLES.sin().to(dtype)
    wide = [each.repeat_interleave(2, dim=1) for each in (cos, sin)]
    heads = [each[:, None].expand(-1, 3, -1) for each in (cos, sin)]
    halves = [torch.cat([each, each], 1) for each in (cos, sin)]
    order = torch.cat([torch.arange(0, 8, 2), torch.arange(1, 8, 2)])
    for found in (
        real(apply_rotary_emb, X, tuple(wide), sequence_dim=1),
        real(apply_rotary_emb, X.transpose(1, 2), tuple(wide)).transpose(1, 2),
        real(apply_rotary_emb, X, numbers[None].expand(2, -1, -1), use_real=False),
        qwen(apply_rotary_emb, X, numbers, use_real=False),
        complex_numbers(apply_rotary_emb, X, numbers[None]),
        strided(apply_rotary_emb, X, *(each[None, :, None] for each in wide)),
        by_heads(apply_rotary_emb, X, *heads),
        chunked(apply_rotary_emb, X, torch.cat(wide, 1)[None]),
    ):
        torch.testing.assert_close(found, expected)
        assert found.data_ptr() != X.data_ptr(), "what no norm precedes is not written"
    apart, by_head = X[..., order], [each.transpose(0, 1)[None] for each in heads]
    for found in (
        first_channels(apply_rotary_emb, apart, *halves),
        flat_halves(apply_rotary_emb, apart.flatten(2), by_head).unflatten(2, (3, 8)),
    ):
        torch.testing.assert_close(found, expected[..., order])


@torch.no_grad()
def test_the_stock_function_computes_what_is_not_known() -> None:
    def stock(x: Any, *rest: Any) -> str:
        return "stock"

    tables = noise(6, 8), noise(6, 8)
    assert real(stock, X, tables, use_real_unbind_dim=-3) == "stock"
    assert real(stock, X.double(), tables, sequence_dim=1) == "stock"
    assert qwen(stock, X, tables) == "stock"
    with torch.enable_grad():
        assert real(stock, X, tables, sequence_dim=1) == "stock"


def test_a_fused_transformer_compiles_in_one_graph() -> None:
    pipe = tiny.flux()
    inputs = {
        "hidden_states": noise(1, 16, 16),
        "encoder_hidden_states": noise(1, 8, 32, seed=1),
        "pooled_projections": noise(1, 32, seed=2),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(8, 3),
    }
    with torch.no_grad():
        stock = pipe.transformer(**inputs).sample
        sdaccel.accelerate(pipe, "none", fuse=True)
        compiled = torch.compile(pipe.transformer, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(**inputs).sample, stock)
