"""Norms and rotations on a CPU, cut into pieces: as in one, for every kind of modulation."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, assert_near, noise

from sdaccel.kernels import norm_in_pieces as norms
from sdaccel.kernels import qk_in_pieces as heads
from sdaccel.kernels.pieces import in_pieces, pieces
from sdaccel.kernels.rotary import rotated

X, WEIGHT, BIAS = noise(2, 7, 48), noise(48, seed=1), noise(48, seed=2)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens a piece or fewer."""
    for module in (norms, heads):
        monkeypatch.setattr(module, "_PIECE", 96 // torch.get_num_threads())


def truth(
    x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, kind: str
) -> torch.Tensor:
    """Spelled out in float64."""
    x = x.double()
    centred = x - x.mean(-1, keepdim=True) if kind == "layer" else x
    y = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * WEIGHT + BIAS
    return y * (1 if scale is None else 1 + scale.double()) + (0 if shift is None else shift)


@pytest.mark.parametrize("modulation_dtype", [None, torch.float32])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize(
    "shape", [None, (1, 1, 48), (2, 1, 48), (1, 7, 48), (2, 7, 48), (7, 1)], ids=str
)
def test_every_kind_of_modulation(
    shape: tuple[int, ...] | None,
    kind: str,
    dtype: torch.dtype,
    modulation_dtype: torch.dtype | None,
) -> None:
    x = X.to(dtype)
    scale, shift = (
        None if shape is None else noise(*shape, dtype=modulation_dtype or dtype, seed=seed)
        for seed in (3, 4)
    )
    found = norms.norm_in_pieces(x, scale, shift, WEIGHT, BIAS, kind, 1e-6)
    assert found.dtype == dtype
    assert_near(found, truth(x, scale, shift, kind), times=2)


def test_rows_of_two_and_of_four_dimensions() -> None:
    for shape in ((14, 48), (2, 7, 1, 48), (7, 2, 1, 1, 48)):
        x = X.reshape(shape)
        found = norms.norm_in_pieces(x, None, None, WEIGHT, BIAS, "rms", 1e-6)
        assert_near(found, truth(x, None, None, "rms"))


@pytest.mark.parametrize(("layout", "width"), [("interleaved", 5), ("half", 5), ("half_each", 10)])
@pytest.mark.parametrize("across_heads", [False, True])
@pytest.mark.parametrize("norm", ["rms", "layer", None])
def test_a_rotation_in_pieces_is_the_one_in_one(
    norm: str | None, across_heads: bool, layout: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    angles = noise(2, 7, 1, width, seed=5)
    weight = None if norm is None else noise(36 if across_heads else 12, seed=6)
    results = []
    for piece in (1, 1 << 20):
        monkeypatch.setattr(heads, "_PIECE", piece)
        x = noise(2, 7, 3, 12)
        heads.norm_rope_in_pieces(
            x, weight, None, norm, across_heads, angles.cos(), angles.sin(), layout, 10, 1e-6
        )
        results.append(x)
    torch.testing.assert_close(*results)


def test_in_pieces_each_channel_may_have_a_value_of_its_own() -> None:
    x, cos, sin = noise(2, 7, 3, 12), noise(2, 7, 1, 10, seed=5), noise(2, 7, 1, 10, seed=6)
    first, second = x[..., :5], x[..., 5:10]
    turned = x[..., :10] * cos + torch.cat([-second, first], -1) * sin
    expected = torch.cat([turned, x[..., 10:]], -1)
    torch.testing.assert_close(rotated(x, cos, sin, "half_each", 10), expected)
    heads.norm_rope_in_pieces(x, None, None, None, False, cos, sin, "half_each", 10, 1e-6)
    torch.testing.assert_close(x, expected)


def test_pieces_are_views_of_all_rows_in_order() -> None:
    rows = noise(7, 48)
    parts = pieces(rows, 96 // torch.get_num_threads())
    assert len(parts) > 2
    assert torch.equal(torch.cat(parts), rows)
    assert parts[0].data_ptr() == rows.data_ptr()
    assert sum(each.numel() for each in pieces(rows[:0])) == 0


def test_only_on_a_cpu_and_not_while_a_compiler_traces() -> None:
    seen = []

    def traced(x: torch.Tensor) -> torch.Tensor:
        seen.append(in_pieces(x))
        return x + 1

    assert in_pieces(X)
    assert not in_pieces(X.to("meta"))
    torch.compile(traced, backend="eager")(X)
    assert seen == [False]
