"""An attention of fewer tokens: merged before it, and given back to all of them after it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .expected_seconds import rates_of
from .pending import Pending
from .token_map import match
from .token_merge_gain import Merging

if TYPE_CHECKING:
    import torch

    from .token_map import TokenMap
    from .token_merge_blocks import Place
    from .token_merge_state import Given, MergeState

Rotation = tuple[Any, Any] | None
"""Cosines and sines of positions, (S, D) each."""


@dataclass(frozen=True)
class Settings:
    """The pass's options that an attention needs; `fewest` None asks what is expected to pay."""

    ratio: float
    every: int
    fewest: int | None


class MergedAttention:
    """Stands where an attention's `forward` is looked up.

    With a mask, with arguments that nobody knows, and where too few tokens make it pay, the stock
    forward runs, and the report says so.
    """

    def __init__(self, place: Place, state: MergeState, settings: Settings) -> None:
        attention: Any = place.attention
        functools.update_wrapper(self, attention.forward)
        self._stock: Callable[..., Any] = attention.forward
        self._place = place
        self._state = state
        self._settings = settings

    def __call__(
        self,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
        image_rotary_emb: Rotation = None,
        **others: Any,
    ) -> Any:
        known = {"encoder_hidden_states": encoder_hidden_states, "attention_mask": attention_mask}
        if image_rotary_emb is not None:
            known["image_rotary_emb"] = image_rotary_emb
        given = self._state.given
        if given is None:
            return self._stock(hidden_states, **known, **others)
        tokens = self._tokens(given, hidden_states, known, others)
        if not tokens:
            return self._stock(hidden_states, **known, **others)
        states = hidden_states.value() if isinstance(hidden_states, Pending) else hidden_states
        text = states.shape[1] - tokens
        picture = states[:, text:] if text else states
        found = self._state.map_for(self, picture, lambda: self._matched(given, picture))
        rows = found.merge(picture)
        if text:
            rows = _joined(states[:, :text], rows)
        return self._after(self._attend(rows, known, found, others), found, text)

    def _tokens(self, given: Given, states: Any, known: Any, others: Any) -> int:
        """How many tokens to merge from; 0 where the stock forward is to run, which is counted."""
        name, ran = self._state.name, self._state.record.ran
        count = self._place.layout.count(given)
        encoder = known["encoder_hidden_states"]
        if known["attention_mask"] is not None or any(v is not None for v in others.values()):
            ran[f"{name} whole, with a mask or arguments of its own"] += 1
            return 0
        between = 0 if count is None else states.shape[1] - count
        fits = count is not None and states.ndim == 3 and between >= 0
        if not fits or (not self._place.joint and (between or encoder is not None)):
            ran[f"{name} whole, its tokens are not the picture's"] += 1
            return 0
        assert count is not None
        beside = between if encoder is None else encoder.shape[1]
        if not self._pays(count, beside, states, "image_rotary_emb" in known):
            ran[f"{name} whole, too few tokens"] += 1
            return 0
        return count

    def _pays(self, count: int, beside: int, states: Any, rotated: bool) -> bool:
        settings, state = self._settings, self._state
        if settings.fewest is not None:
            return count >= max(4, settings.fewest)
        merging = Merging(
            *(states.shape[0], count, beside, states.shape[2], states.dtype.itemsize),
            *(settings.ratio, settings.every, rotated),
        )
        return state.pays(merging, rates_of(states.device))

    def _matched(self, given: Given, picture: torch.Tensor) -> TokenMap:
        order = self._place.layout.order(given, picture.device)
        return match(picture, order, self._settings.ratio)

    def _attend(self, rows: torch.Tensor, known: Any, found: TokenMap, others: Any) -> Any:
        """Sample by sample where positions are rotated: other tokens stay in each of them."""
        rotation = known.get("image_rotary_emb")
        if rotation is None:
            return self._stock(rows, **known, **others)
        encoder = known["encoder_hidden_states"]
        results = []
        for sample in range(rows.shape[0]):
            one = slice(sample, sample + 1)
            arguments = {
                **known,
                "encoder_hidden_states": None if encoder is None else encoder[one],
                "image_rotary_emb": _rows_of(rotation, found, sample),
            }
            results.append(self._stock(rows[one], **arguments, **others))
        return _stacked(results)

    def _after(self, result: Any, found: TokenMap, text: int) -> Any:
        if isinstance(result, tuple):
            return (found.unmerge(result[0]), *result[1:])
        if text:
            return _joined(result[:, :text], found.unmerge(result[:, text:]))
        return found.unmerge(result)


def _joined(text: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat([text, picture], dim=1)


def _stacked(results: list[Any]) -> Any:
    """The results of single samples as those of a batch."""
    import torch

    if len(results) == 1:
        return results[0]
    if isinstance(results[0], tuple):
        return tuple(torch.cat(each) for each in zip(*results, strict=True))
    return torch.cat(results)


def _rows_of(rotation: Any, found: TokenMap, sample: int) -> Any:
    """The rotation of a sample's merged tokens, and of the text before them."""
    import torch

    tables = []
    for table in rotation:
        text = table.shape[0] - found.tokens
        merged = table[text:][found.representatives[sample].to(table.device)]
        tables.append(torch.cat([table[:text], merged]))
    return tuple(tables)
