"""Whether merging the tokens of an attention is expected to save time, and from how many on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .expected_seconds import Rates
from .token_map import merged_away

_MATCHING_OPS, _APPLYING_OPS = 30, 6
"""About how many ops `token_map` and the wrapper around an attention start."""
_ROTATING_OPS, _ATTENDING_OPS = 10, 20
"""And for each sample, where positions are rotated; all but the first attend by themselves too."""
_WORTHWHILE = 1.5
"""Rates are rough: at 1.1 the 64 tokens of the embedded transformer were merged at rates half as
high, and its pictures took 5 to 10% longer (one thread of a busy AMD EPYC, Zen 5)."""
_MOST = 1 << 24


@dataclass(frozen=True)
class Merging:
    """An attention of `others + tokens` tokens of `width` channels, whose `tokens` are merged.

    `samples` is the batch, `every` how many steps a map serves, `itemsize` bytes a channel;
    `rotated` tells that each sample attends by itself, with positions of its own.
    """

    samples: int
    tokens: int
    others: int
    width: int
    itemsize: int
    ratio: float
    every: int
    rotated: bool = False

    def saved(self, rates: Rates) -> float:
        """Seconds that a call of the attention, projections included, is spared."""
        away = merged_away(self.tokens, self.ratio)
        whole = self.tokens + self.others
        pairs = whole**2 - (whole - away) ** 2
        flops = 4 * pairs * self.width + 8 * away * self.width**2
        return rates.seconds(self.samples * flops)

    def spent(self, rates: Rates) -> float:
        """Seconds that a call takes more: its share of a matching, and both gathers."""
        destinations = self.tokens // 4
        pairs = destinations * (self.tokens - destinations)
        matching = rates.seconds(
            self.samples * 2 * pairs * self.width,
            self.samples * 2 * pairs * self.itemsize,
            _MATCHING_OPS,
        )
        moved = 4 * self.tokens * self.width * self.itemsize
        launches = _APPLYING_OPS
        if self.rotated:
            launches += self.samples * _ROTATING_OPS + (self.samples - 1) * _ATTENDING_OPS
        return matching / self.every + rates.seconds(0, self.samples * moved, launches)

    def pays(self, rates: Rates) -> bool:
        """Whether it saves clearly more than it takes."""
        return self.tokens >= 4 and self.saved(rates) > _WORTHWHILE * self.spent(rates)

    def fewest_tokens(self, rates: Rates) -> int | None:
        """About how many tokens there must be for it to pay, the rest being equal."""
        low, high = 0, _MOST
        if not replace(self, tokens=high).pays(rates):
            return None
        while high - low > 16:
            middle = (low + high) // 2
            if replace(self, tokens=middle).pays(rates):
                high = middle
            else:
                low = middle
        return high

    def reason(self, rates: Rates) -> str:
        """Why it is not done, with its numbers."""
        fewest = self.fewest_tokens(rates)
        begins = (
            "never pays at this ratio" if fewest is None else f"pays from about {fewest} tokens"
        )
        return (
            f"{self.tokens} tokens of width {self.width} stay whole: merging "
            f"{merged_away(self.tokens, self.ratio)} is expected to save "
            f"{1e3 * self.saved(rates):.2g} ms a call and to take {1e3 * self.spent(rates):.2g}; "
            f"it {begins}"
        )
