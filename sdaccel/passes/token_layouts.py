"""How the tokens of a running forward lie in the picture: how many, and which are destinations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from .token_map import destinations_first, grid_order

if TYPE_CHECKING:
    import torch

    from .token_merge_state import Given


class Layout(ABC):
    """The tokens of some blocks of a denoiser."""

    @abstractmethod
    def count(self, given: Given) -> int | None:
        """How many tokens the picture has there, as far as the forward's arguments tell."""

    @abstractmethod
    def order(self, given: Given, device: torch.device) -> torch.Tensor:
        """Their numbers, as `destinations_first` has them."""


class Grid(Layout):
    """Row after row, of a picture whose sides are halved `halvings` times, or cut into patches."""

    def __init__(self, halvings: int = 0, patched: bool = False) -> None:
        self._halvings = halvings
        self._patched = patched
        self._orders: dict[Any, torch.Tensor] = {}

    def count(self, given: Given) -> int | None:
        sides = self._sides(given)
        return None if sides is None else sides[0] * sides[1]

    def order(self, given: Given, device: torch.device) -> torch.Tensor:
        sides = self._sides(given)
        assert sides is not None, "it is asked after `count` has told a number"
        key = (*sides, device)
        if key not in self._orders:
            self._orders[key] = grid_order(*sides, device)
        return self._orders[key]

    def _sides(self, given: Given) -> tuple[int, int] | None:
        """Height and width; odd sides are rounded up where they are halved, as convolutions do."""
        sample = given.arguments.get("sample", given.arguments.get("hidden_states"))
        if sample is None or sample.dim() < 4:
            return None
        height, width = sample.shape[-2:]
        if self._patched:
            patch = given.host.config.patch_size
            return height // patch, width // patch
        cut = 1 << self._halvings
        return -(-height // cut), -(-width // cut)


class Listed(Layout):
    """In the order of a table of positions, `img_ids` (N, 3), whose last two are row and column."""

    def count(self, given: Given) -> int | None:
        positions = given.arguments.get("img_ids")
        return None if positions is None else int(positions.shape[-2])

    def order(self, given: Given, device: torch.device) -> torch.Tensor:
        positions = given.arguments["img_ids"].to(device)
        # one table for each sample is what diffusers took before
        rows, columns = (positions[0] if positions.dim() == 3 else positions)[:, -2:].unbind(1)
        return destinations_first(rows, columns)
