"""Qwen-Image, so that its text may have any length and its picture any size.

diffusers reads the length of the text as a number in two places, which fixes it in a graph: where
it makes a mask, and where it cuts the rotation's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..patch import Patch
from .forms import Form, Outputs, named


@dataclass
class Given:
    """What a call gave, for the hooks of its blocks."""

    mask: torch.Tensor | None = None


class QwenImage(Form):
    """The transformer, given its mask at each block; one size of picture for the whole batch."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module)
        self.given = Given()

    def prepare(self, patch: Patch) -> None:
        """Give each block the mask, and let positions be cut by a number that may change."""
        module: Any = self.module
        for block in module.transformer_blocks:
            patch.add_handle(block.register_forward_pre_hook(self._with_mask, with_kwargs=True))
        patch.set(module, "pos_embed", Positions(module.pos_embed))
        patch.set(self.given, "mask", None)

    def forward(self, arguments: Mapping[str, Any]) -> Outputs:
        """`sample`, (batch, tokens, channels)."""
        others = dict(arguments)
        self.given.mask = others.pop("encoder_hidden_states_mask").bool()
        return dict(named(self.module(**others)))

    def stock(self, arguments: Mapping[str, Any]) -> Outputs:
        """The model's own forward."""
        return dict(named(self.module(**arguments)))

    def _with_mask(
        self, block: torch.nn.Module, given: tuple[Any, ...], named_ones: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return given, {**named_ones, "encoder_hidden_states_mask": self.given.mask}


class Positions(torch.nn.Module):
    """The rotations of a picture's tokens and of its text's, which begin where the picture ends.

    They are cut from the model's tables as pairs of real numbers, for which there are operators.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.scale_rope = stock.scale_rope
        self.shares = [each // 2 for each in stock.axes_dim]
        self.after = torch.view_as_real(stock.pos_freqs)
        self.before = torch.view_as_real(stock.neg_freqs)

    def forward(
        self, sizes: Any, device: torch.device | None = None, max_txt_seq_len: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Complex, (picture's tokens, head / 2) and (text's tokens, head / 2)."""
        grid = sizes[0][0]
        axes = [self._axis(axis, size).expand(*grid, -1, 2) for axis, size in enumerate(grid)]
        picture = torch.cat(axes, -2).flatten(0, 2)
        height, width = grid[1:]
        halves = (height // 2, width // 2) if self.scale_rope else (height, width)
        start = torch.sym_max(*halves)
        text = self.after[start : start + max_txt_seq_len]
        return torch.view_as_complex(picture), torch.view_as_complex(text)

    def _axis(self, axis: int, size: int) -> torch.Tensor:
        """Of one axis (frames, height, width), with ones for the others; centred if scaled."""
        after, before = (each.split(self.shares, 1)[axis] for each in (self.after, self.before))
        half = size // 2
        if self.scale_rope and axis > 0:
            turns = torch.cat([before[-(size - half) :], after[:half]])
        else:
            turns = after[:size]
        return turns.view([size if each == axis else 1 for each in range(3)] + [-1, 2])
