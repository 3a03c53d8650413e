"""Sparse attention of three video models against a dense one under the same mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from sparse_videos import (
    EVERYWHERE,
    NEAR,
    cogvideox_model,
    in_a_pipe,
    ltx_model,
    record,
    sparse,
    wan_model,
)

from sdaccel.passes.video_blocks import VideoGrid, nearby_blocks


@pytest.fixture(params=["kernel", "plain_torch"])
def computed_by(request: pytest.FixtureRequest) -> None:
    """The op is computed by its kernel in Triton's interpreter, and by its reference."""
    if request.param != "kernel":
        request.getfixturevalue(request.param)


def apart(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative L2."""
    return float((found - truth).norm() / truth.norm())


MODELS = [wan_model, cogvideox_model, ltx_model]


@contextmanager
def masked(grid: VideoGrid, reach: tuple[int, int, int]) -> Iterator[None]:
    """torch's attention of all the grid's tokens has the mask of what is nearby, token by token."""
    stock = torch.nn.functional.scaled_dot_product_attention
    mask = nearby_blocks(grid, reach, (16, 16))[0, 0]
    mask = mask.repeat_interleave(16, 0).repeat_interleave(16, 1)[: grid.tokens, : grid.tokens]

    def with_mask(query: Any, key: Any, value: Any, attn_mask: Any = None, **rest: Any) -> Any:
        if query.shape[2] == key.shape[2] == grid.tokens:
            attn_mask = mask
        return stock(query, key, value, attn_mask=attn_mask, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", with_mask)
        yield


@pytest.mark.usefixtures("computed_by")
@pytest.mark.parametrize("make", MODELS)
@torch.no_grad()
def test_with_all_blocks_it_is_dense_attention(make: Any) -> None:
    model, inputs, _ = make()
    truth = model(**inputs).sample
    pipe = sparse(in_a_pipe(model), **EVERYWHERE, keep=1.0)
    assert apart(model(**inputs).sample, truth) < 1e-5
    layers = record(pipe).changed["transformer self-attentions by blocks"]
    assert record(pipe).ran == {"transformer sparse": layers}


@pytest.mark.usefixtures("computed_by")
@pytest.mark.parametrize("make", MODELS)
@torch.no_grad()
def test_with_some_blocks_it_is_dense_attention_under_their_mask(make: Any) -> None:
    model, inputs, grid = make()
    with masked(grid, (0, 9, 9)):
        truth = model(**inputs).sample
    whole = model(**inputs).sample
    sparse(in_a_pipe(model), **EVERYWHERE, **NEAR)
    assert apart(model(**inputs).sample, truth) < 1e-5 < apart(whole, truth)
