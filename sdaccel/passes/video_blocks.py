"""Which blocks of keys a block of queries attends to in a video: those nearby, and the strongest.

Tokens lie frame after frame, row after row, perhaps with a text before them. A mask is boolean,
(B or 1, H or 1, query blocks, key blocks), as `attention_sparse` takes it.

Sources: Zhang et al., "Fast Video Generation with Sliding Tile Attention" (2025), for windows in
time and space; Zhang et al., "SpargeAttention" (2025), for scores of pooled queries and keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BlockSize = tuple[int, int]
"""Tokens in a block of queries, and in one of keys."""


@dataclass(frozen=True)
class VideoGrid:
    """`text` tokens, and behind them those of a video of `frames` x `rows` x `columns`."""

    frames: int
    rows: int
    columns: int
    text: int = 0

    @property
    def tokens(self) -> int:
        """All of them, the text's included."""
        return self.text + self.frames * self.rows * self.columns


def nearby_blocks(
    grid: VideoGrid, reach: tuple[int, int, int], block_size: BlockSize
) -> torch.Tensor:
    """The blocks that hold a pair of tokens at most `reach` (frames, rows, columns) apart.

    Text and all tokens are near each other. Made on the CPU: (1, 1, query blocks, key blocks).
    """
    queries, keys = (_segments(grid, each) for each in block_size)
    near = None
    for query in queries:
        for key in keys:
            pair = _are_near(query[:, None], key[None], reach)
            near = pair if near is None else near | pair
    assert near is not None
    texts = [_holds_text(grid, each) for each in block_size]
    return (near | texts[0][:, None] | texts[1][None])[None, None]


def _segments(grid: VideoGrid, block: int) -> list[torch.Tensor]:
    """The rows of the picture that each block holds a part of, as many tables as blocks have parts.

    A table (blocks, 4) has frame, row, and first and last column; first above last holds nothing.
    """
    import torch

    starts = torch.arange(0, grid.tokens, block)
    first = (starts - grid.text).clamp(min=0)
    last = torch.clamp(starts + block, max=grid.tokens) - grid.text - 1
    lines = torch.div(first, grid.columns, rounding_mode="floor")
    most = -(-block // grid.columns) + 1
    tables = []
    for number in range(most):
        line = lines + number
        low = torch.maximum(first - line * grid.columns, torch.zeros_like(first))
        high = torch.clamp(last - line * grid.columns, max=grid.columns - 1)
        frame = torch.div(line, grid.rows, rounding_mode="floor")
        tables.append(torch.stack([frame, line % grid.rows, low, high], dim=1))
    return tables


def _are_near(query: torch.Tensor, key: torch.Tensor, reach: tuple[int, int, int]) -> torch.Tensor:
    """Whether parts of rows (..., 4), which broadcast, have tokens within reach of each other."""
    frames, rows, columns = reach
    held = (query[..., 2] <= query[..., 3]) & (key[..., 2] <= key[..., 3])
    apart = (query[..., 2] - key[..., 3]).maximum(key[..., 2] - query[..., 3])
    return (
        held
        & ((query[..., 0] - key[..., 0]).abs() <= frames)
        & ((query[..., 1] - key[..., 1]).abs() <= rows)
        & (apart <= columns)
    )


def _holds_text(grid: VideoGrid, block: int) -> torch.Tensor:
    import torch

    return torch.arange(0, grid.tokens, block) < grid.text


def strongest_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    grid: VideoGrid,
    block_size: BlockSize,
    keep: float,
    scale: float,
) -> torch.Tensor:
    """The fewest key blocks that hold the share `keep` of each query block's attention.

    It is estimated from the means of each block's queries and keys, (B, H, S, D) both, with as many
    heads each or a divisor of them. Nothing waits for the device.
    """
    import torch

    queries, keys = _means(query, block_size[0]), _means(key, block_size[1])
    if keys.shape[1] != queries.shape[1]:
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
    scores = (queries @ keys.mT * scale + _sizes(key, block_size[1]).log()).softmax(-1)
    ranked, ranks = scores.sort(dim=-1, descending=True)
    # a block counts while those before it hold less than the share
    needed = ranked.cumsum(-1) - ranked < keep
    chosen = torch.zeros_like(needed).scatter(-1, ranks, needed)
    for place, block in enumerate(block_size):
        if grid.text:
            text = _holds_text(grid, block).to(query.device)
            chosen = chosen | (text[:, None] if place == 0 else text)
    return chosen


def _sizes(x: torch.Tensor, block: int) -> torch.Tensor:
    """How many tokens each block of x (B, H, S, D) holds, in fp32."""
    import torch

    starts = torch.arange(0, x.shape[2], block, device=x.device)
    return (x.shape[2] - starts).clamp(max=block).float()


def _means(x: torch.Tensor, block: int) -> torch.Tensor:
    """The mean of each block of x (B, H, S, D), in fp32: (B, H, blocks, D)."""
    import torch

    whole = x.shape[2] // block * block
    blocks = x[:, :, :whole].unflatten(2, (-1, block))
    means: torch.Tensor = blocks.mean(3, dtype=torch.float32)
    if whole == x.shape[2]:
        return means
    return torch.cat([means, x[:, :, whole:].mean(2, keepdim=True, dtype=torch.float32)], dim=2)
