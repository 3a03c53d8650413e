"""The blocks that are nearby and those that are strongest, against every pair of tokens."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from sdaccel.passes.video_blocks import VideoGrid, nearby_blocks, strongest_blocks


def by_hand(grid: VideoGrid, reach: tuple[int, int, int], sizes: tuple[int, int]) -> torch.Tensor:
    """Token by token: those of the text are near everything."""
    places = [None] * grid.text
    places += list(product(range(grid.frames), range(grid.rows), range(grid.columns)))

    def near(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> bool:
        if one is None or other is None:
            return True
        return all(abs(a - b) <= most for a, b, most in zip(one, other, reach, strict=True))

    blocks = [[places[at : at + size] for at in range(0, len(places), size)] for size in sizes]
    return torch.tensor(
        [[any(near(a, b) for a in q for b in k) for k in blocks[1]] for q in blocks[0]]
    )[None, None]


@pytest.mark.parametrize(
    "grid",
    [VideoGrid(3, 4, 4), VideoGrid(3, 2, 20), VideoGrid(2, 5, 7, text=11), VideoGrid(5, 1, 3, 40)],
)
@pytest.mark.parametrize("reach", [(0, 0, 0), (1, 0, 3), (0, 2, 1), (9, 9, 9)])
def test_nearby_blocks_hold_a_pair_of_tokens_within_reach(
    grid: VideoGrid, reach: tuple[int, int, int]
) -> None:
    for sizes in ((16, 16), (32, 16)):
        assert torch.equal(nearby_blocks(grid, reach, sizes), by_hand(grid, reach, sizes))


def heads(tokens: int, seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(1, count, tokens, 8, generator=torch.Generator().manual_seed(seed))


def shares(query: torch.Tensor, key: torch.Tensor, sizes: tuple[int, int]) -> torch.Tensor:
    """The attention of each query block's mean to the means of key blocks, by their tokens."""
    queries = torch.stack([each.mean(2) for each in query.split(sizes[0], 2)], 2)
    keys = torch.stack([each.mean(2) for each in key.split(sizes[1], 2)], 2)
    counts = torch.tensor([each.shape[2] for each in key.split(sizes[1], 2)]).float()
    weights = counts * (queries @ keys.mT / math.sqrt(8)).exp()
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_the_strongest_blocks_are_the_fewest_that_hold_the_share(keep: float) -> None:
    grid, sizes = VideoGrid(2, 5, 7), (32, 16)
    query, key = 3 * heads(70, 0), 3 * heads(70, 1)
    chosen = strongest_blocks(query, key, grid, sizes, keep, 8**-0.5)
    held = shares(query, key, sizes)
    kept = torch.where(chosen, held, 0.0).sum(-1)
    least = torch.where(chosen, held, 2.0).amin(-1)
    assert (kept >= keep - 1e-5).all()
    assert (kept - least < keep + 1e-5).all(), "without the weakest it would be less"
    assert (torch.where(chosen, 0.0, held).amax(-1) <= least + 1e-6).all()


def test_all_blocks_are_kept_for_all_of_the_attention() -> None:
    query, key = heads(48, 0), heads(48, 1)
    assert strongest_blocks(query, key, VideoGrid(3, 4, 4), (16, 16), 1.0, 8**-0.5).all()


def test_text_is_always_seen_and_sees_everything() -> None:
    grid = VideoGrid(3, 4, 4, text=10)
    query, key = 9 * heads(58, 0), 9 * heads(58, 1)
    chosen = strongest_blocks(query, key, grid, (16, 16), 0.1, 8**-0.5)
    assert chosen[..., 0, :].all()
    assert chosen[..., 0].all()
    assert not chosen.all()


def test_fewer_heads_of_keys_serve_groups_of_queries() -> None:
    grid, sizes = VideoGrid(3, 4, 4), (16, 16)
    query, key = 3 * heads(48, 0, count=4), 3 * heads(48, 1)
    found = strongest_blocks(query, key, grid, sizes, 0.5, 8**-0.5)
    repeated = key.repeat_interleave(2, 1)
    assert torch.equal(found, strongest_blocks(query, repeated, grid, sizes, 0.5, 8**-0.5))
