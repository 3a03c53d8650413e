"""Z-Image on batches: diffusers' own forward takes lists, and loops over the samples in them.

A graph has one length of text and one size of picture for all its samples, so its inputs are
stacked. Text and picture are padded to multiples of 32 tokens, as the model does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..patch import Patch
from .forms import Form, Outputs

_MULTIPLE = 32
_PATCH = "2-1"
"""Two by two latents of one frame are a token; the key of the layers for it."""


class ZImage(Form):
    """The transformer's own layers; `x` (batch, channels, 1, height, width), `t` (batch,) and
    `cap_feats` (batch, tokens, width) give `sample` of x's shape."""

    tables: tuple[torch.Tensor, ...] = ()

    def prepare(self, patch: Patch) -> None:
        """Make the tables of the rotation: complex, (places, head's share / 2) for each axis."""
        rope: Any = self.module.rope_embedder
        made = rope.precompute_freqs_cis(rope.axes_dims, rope.axes_lens, theta=rope.theta)
        self.tables = tuple(torch.view_as_real(each) for each in made)

    def stock(self, arguments: Mapping[str, Any]) -> Outputs:
        """The model's own forward, on lists."""
        lists = {**arguments, "x": list(arguments["x"]), "cap_feats": list(arguments["cap_feats"])}
        return {"sample": torch.stack(self.module(**lists).sample)}

    def forward(self, arguments: Mapping[str, Any]) -> Outputs:
        """The model in its mode with one picture a sample."""
        model: Any = self.module
        x, text = arguments["x"], arguments["cap_feats"]
        condition = model.t_embedder(arguments["t"] * model.t_scale).type_as(x)
        words = _padded(model.cap_embedder(text), model.cap_pad_token)
        places = torch.arange(words.shape[1]) + 1
        word_turns = self._turns(places, places * 0, places * 0)
        patches = model.all_x_embedder[_PATCH](_patches(x))
        picture = _padded(patches, model.x_pad_token)
        turns = self._turns(*_places(x, patches.shape[1], picture.shape[1], words.shape[1] + 1))
        for layer in model.noise_refiner:
            picture = layer(picture, None, torch.view_as_complex(turns), condition)
        for layer in model.context_refiner:
            words = layer(words, None, torch.view_as_complex(word_turns))
        both = torch.cat([picture, words], 1)
        all_turns = torch.view_as_complex(torch.cat([turns, word_turns], 1))
        for layer in model.layers:
            both = layer(both, None, all_turns, condition)
        drawn = model.all_final_layer[_PATCH](both, c=condition)
        return {"sample": _pixels(drawn[:, : patches.shape[1]], x)}

    def _turns(self, *places: torch.Tensor) -> torch.Tensor:
        """Rotations (1, tokens, head / 2, 2) of tokens at these places of the axes."""
        axes = [table[place] for table, place in zip(self.tables, places, strict=True)]
        return torch.cat(axes, 1)[None]


def _padded(tokens: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
    """(batch, tokens, width) to a multiple of 32 tokens."""
    length = tokens.shape[1]
    places = torch.arange((length + _MULTIPLE - 1) // _MULTIPLE * _MULTIPLE)
    longer = tokens[:, places.clamp(max=length - 1)]
    return torch.where((places < length)[None, :, None], longer, pad)


def _places(x: torch.Tensor, tokens: int, padded: int, first: int) -> tuple[torch.Tensor, ...]:
    """Where tokens are in time, height and width; those that pad are at the origin."""
    order = torch.arange(padded)
    real, at = (order < tokens).long(), order.clamp(max=tokens - 1)
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    rows = torch.arange(height)[:, None].expand(height, width).flatten()
    columns = torch.arange(width)[None].expand(height, width).flatten()
    return first * real, rows[at] * real, columns[at] * real


def _patches(x: torch.Tensor) -> torch.Tensor:
    """(batch, channels, 1, height, width) to (batch, tokens, 4 * channels)."""
    batch, channels, _, height, width = x.shape
    cut = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, 4 * channels)


def _pixels(tokens: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The way back from `_patches`, to the shape of `x`."""
    batch, channels, _, height, width = x.shape
    cut = tokens.reshape(batch, height // 2, width // 2, 2, 2, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)
