"""qk_norm_rope: in place, against diffusers' own rotation and the norms spelled out in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_near, kernel_runs, noise

from sdaccel.errors import ArgumentError
from sdaccel.kernels.qk_norm_rope import qk_norm_rope
from sdaccel.kernels.rotary import tables

UNBIND = {"interleaved": -1, "half": -2}


def normalised(x: torch.Tensor, norm: str | None, across: bool, weight: Any = None) -> torch.Tensor:
    """The norm of (B, S, H, D) per head, or across heads, in float64."""
    wide = x.double().flatten(2) if across else x.double()
    if norm == "rms":
        wide = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    elif norm == "layer":
        wide = torch.nn.functional.layer_norm(wide, wide.shape[-1:], eps=1e-6)
    wide = wide if weight is None else wide * weight.double()
    return wide.view(x.shape)


def angles(tokens: int, pairs: int, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin (S, D), each value twice, as diffusers has them."""
    found = noise(tokens, pairs, seed=9)
    wide = found.repeat_interleave(2, 1) if layout == "interleaved" else torch.cat([found] * 2, 1)
    return wide.cos(), wide.sin()


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: str) -> torch.Tensor:
    """diffusers' rotation of (B, S, H, D)."""
    places = {"use_real_unbind_dim": UNBIND[layout], "sequence_dim": 1}
    return apply_rotary_emb(x, (cos.double(), sin.double()), **places)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize(("norm", "across"), [("rms", False), ("rms", True), ("layer", False)])
@pytest.mark.parametrize("dim", [8, 96])
def test_norm_then_rotation(
    dim: int, norm: Any, across: bool, layout: Any, dtype: torch.dtype
) -> None:
    query, key = noise(2, 5, 4, dim, dtype=dtype), noise(2, 5, 4, dim, dtype=dtype, seed=1)
    weights = [noise(dim * (4 if across else 1), dtype=dtype, seed=seed) for seed in (2, 3)]
    cos, sin = angles(5, dim // 2, layout)
    expected = [
        turned(normalised(x, norm, across, weight), cos, sin, layout)
        for x, weight in zip((query, key), weights, strict=True)
    ]
    with kernel_runs("qk_norm_rope"):
        qk_norm_rope(
            query, key, query_weight=weights[0], key_weight=weights[1], norm=norm,
            across_heads=across, cos=cos, sin=sin, layout=layout,
        )  # fmt: skip
    for found, truth in zip((query, key), expected, strict=True):
        assert_near(found, truth)


def test_the_norm_alone_and_the_rotation_alone() -> None:
    query, key = noise(1, 3, 2, 64), noise(1, 3, 2, 64, seed=1)
    expected = normalised(query, "rms", False)
    qk_norm_rope(query, key)
    assert_near(query, expected)
    cos, sin = angles(3, 32, "interleaved")
    expected = turned(key.double(), cos, sin, "interleaved")
    qk_norm_rope(query, key, norm=None, cos=cos, sin=sin)
    assert_near(key, expected)


def test_fewer_heads_for_keys() -> None:
    query, key = noise(2, 3, 6, 16), noise(2, 3, 2, 16, seed=1)
    expected = [normalised(x, "rms", False) for x in (query, key)]
    qk_norm_rope(query, key)
    for found, truth in zip((query, key), expected, strict=True):
        assert_near(found, truth)


def test_views_are_written_where_they_lie_and_nothing_else_is() -> None:
    packed = noise(2, 5, 3, 4, 16)
    before = packed.clone()
    query, key, value = packed[:, 1:4].unbind(2)
    expected = [normalised(x.clone(), "rms", False) for x in (query, key)]
    qk_norm_rope(query, key)
    assert_near(query, expected[0])
    assert_near(key, expected[1])
    assert torch.equal(value, before[:, 1:4, 2])
    assert torch.equal(packed[:, :1], before[:, :1])
    assert torch.equal(packed[:, 4:], before[:, 4:])


def test_heads_before_tokens_as_attention_has_them() -> None:
    query = noise(2, 4, 5, 16)
    expected = normalised(query.transpose(1, 2).clone(), "rms", False)
    qk_norm_rope(query.transpose(1, 2), noise(2, 5, 4, 16))
    assert_near(query.transpose(1, 2), expected)


def test_complex_tables_are_read_as_they_are() -> None:
    query, key = noise(1, 4, 2, 16), noise(1, 4, 2, 16, seed=1)
    freqs = torch.polar(torch.ones(4, 8), noise(4, 8, seed=2))
    turned_by = torch.view_as_complex(query.view(1, 4, 2, 8, 2)) * freqs[None, :, None]
    expected = torch.view_as_real(turned_by).flatten(3)
    cos, sin = tables(freqs)
    qk_norm_rope(query, key, norm=None, cos=cos, sin=sin)
    assert_near(query, expected)


def test_only_the_first_part_may_turn() -> None:
    query = noise(1, 3, 2, 32)
    cos, sin = angles(3, 8, "interleaved")
    expected = torch.cat(
        [turned(query[..., :16].double(), cos, sin, "interleaved"), query[..., 16:].double()], -1
    )
    qk_norm_rope(query, noise(1, 3, 2, 32), norm=None, cos=cos, sin=sin, rotary_dim=16)
    assert_near(query, expected)


def unlike(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Halves of (B, S, H, D), turned by a value of its own for each channel."""
    first, second = x.chunk(2, -1)
    return x * cos.double() + torch.cat([-second, first], -1) * sin.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("table", [(2, 5, 1, 24), (5, 24), (2, 5, 4, 24), (2, 5, 96)])
@pytest.mark.parametrize("dim", [24, 34])
def test_each_channel_may_have_a_value_of_its_own(
    table: tuple[int, ...], dim: int, dtype: torch.dtype
) -> None:
    query, key = noise(2, 5, 4, dim, dtype=dtype), noise(2, 5, 4, dim, dtype=dtype, seed=1)
    cos, sin = noise(*table, seed=2), noise(*table, seed=3)
    by = [each.unflatten(2, (4, 24)) if each.dim() == 3 else each for each in (cos, sin)]
    by = [each[:, None] if each.dim() == 2 else each for each in by]
    expected = []
    for x in (query, key):
        wide = normalised(x, "rms", False)
        expected.append(torch.cat([unlike(wide[..., :24], *by), wide[..., 24:]], -1))
    with kernel_runs("qk_norm_rope"):
        qk_norm_rope(query, key, cos=cos, sin=sin, layout="half_each", rotary_dim=24)
    for found, truth in zip((query, key), expected, strict=True):
        assert_near(found, truth)


def test_tables_of_each_channel_may_lie_apart() -> None:
    query = noise(1, 3, 2, 16)
    cos, sin = noise(3, 16, 2, seed=2).unbind(-1)
    expected = unlike(query.double(), cos[:, None], sin[:, None])
    qk_norm_rope(query, query[:, :, :0], norm=None, cos=cos, sin=sin, layout="half_each")
    assert_near(query, expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 2), st.integers(1, 9), st.integers(1, 5), st.integers(1, 30))
def test_any_shape(batches: int, tokens: int, heads: int, pairs: int) -> None:
    query, key = noise(batches, tokens, heads, 2 * pairs), noise(batches, tokens, 1, 2 * pairs)
    cos, sin = angles(tokens, pairs, "half")
    expected = turned(normalised(query, "rms", False), cos, sin, "half")
    qk_norm_rope(query, key, cos=cos, sin=sin, layout="half")
    assert_near(query, expected, times=3)


def test_it_compiles_into_one_graph() -> None:
    def normalise(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        query, key = query * 2, key * 2
        qk_norm_rope(query, key)
        return query + key

    query, key = noise(1, 3, 2, 16), noise(1, 3, 2, 16, seed=1)
    compiled = torch.compile(normalise, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query, key), normalise(query, key))


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"key": noise(1, 3, 2, 8)}, "key has shape"),
        ({"key": noise(1, 3, 2, 16).half()}, "give both in one dtype"),
        ({"query_weight": noise(9), "key_weight": noise(9)}, "query_weight has shape"),
        ({"query_weight": noise(16)}, "go together"),
        ({"norm": "group"}, "norm is one of"),
        ({"cos": noise(3, 8), "sin": noise(3, 8), "layout": "half_each"}, "16] was expected"),
        ({"layout": "quarters"}, "layout is one of"),
        ({"norm": None, "query_weight": noise(16), "key_weight": noise(16)}, "needs a norm"),
    ],
)
def test_bad_input_is_named(named: dict[str, Any], words: str) -> None:
    query = noise(1, 3, 2, 16)
    key = named.pop("key", noise(1, 3, 2, 16, seed=1))
    with pytest.raises(ArgumentError, match=words):
        qk_norm_rope(query, key, **named)
    assert torch.equal(query, noise(1, 3, 2, 16))
