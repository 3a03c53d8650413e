"""Sparse attention of three video models against a dense one under the same mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from sparse_videos import EVERYWHERE, NEAR, in_a_pipe, record, sparse, wan_model

from sdaccel.passes.video_blocks import VideoGrid, nearby_blocks


@pytest.fixture(params=["kernel", "plain_torch"])
def computed_by(request: pytest.FixtureRequest) -> None:
    """The op is computed by its kernel in Triton's interpreter, and by its reference."""
    if request.param != "kernel":
        request.getfixturevalue(request.param)


def apart(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative L2."""
    return float((found - truth).norm() / truth.norm())


def cogvideox() -> tuple[Any, dict[str, Any], VideoGrid]:
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(8)
    model = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=8,
        num_layers=3,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=8,
    )
    inputs = {
        "hidden_states": torch.randn(1, 3, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 8, 8),
        "timestep": torch.tensor([5]),
    }
    return model.eval(), inputs, VideoGrid(3, 4, 4, text=8)


def ltx() -> tuple[Any, dict[str, Any], VideoGrid]:
    from diffusers import LTXVideoTransformer3DModel

    torch.manual_seed(9)
    model = LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=8,
    )
    inputs = {
        "hidden_states": torch.randn(1, 48, 4),
        "encoder_hidden_states": torch.randn(1, 6, 8),
        "timestep": torch.tensor([5]),
        "encoder_attention_mask": torch.ones(1, 6),
        "num_frames": 3,
        "height": 4,
        "width": 4,
    }
    return model.eval(), inputs, VideoGrid(3, 4, 4)


MODELS = [wan_model, cogvideox, ltx]


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
