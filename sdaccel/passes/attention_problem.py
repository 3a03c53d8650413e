"""What is asked of an attention: the sizes, dtype and layout that its speed depends on."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Problem:
    """One attention as far as its speed depends on it; `str` is its key on disk.

    There the numbers of tokens lie on a grid of eight steps an octave, since prompts differ by a
    few. `layout` has an order of dimensions for query, key and value, slowest first; `mask` a dtype
    and the dimensions of b, h, s, t that it has, "" where there is none.
    """

    device: str
    dtype: torch.dtype
    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    layout: tuple[str, str, str]
    mask: str
    causal: bool

    @classmethod
    def of(
        cls,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        causal: bool,
    ) -> Problem:
        """The problem that these tensors pose."""
        batch, heads, queries, width = query.shape
        return cls(
            query.device.type,
            query.dtype,
            batch,
            heads,
            key.shape[1],
            queries,
            key.shape[2],
            width,
            value.shape[3],
            (_order(query), _order(key), _order(value)),
            "" if mask is None else f"{_short(mask.dtype)} {_spread(mask)}",
            causal,
        )

    def __str__(self) -> str:
        tokens = f"{self.batch}x{_on_grid(self.queries)}x{_on_grid(self.keys)}"
        heads = f"{self.heads}/{self.key_heads} heads of {self.width}/{self.value_width}"
        parts = [tokens, heads, _short(self.dtype), " ".join(self.layout)]
        parts += [f"mask {self.mask}"] * bool(self.mask) + ["causal"] * self.causal
        return ", ".join(parts)

    @property
    def in_words(self) -> str:
        """For the report: "4096x4096 tokens, 8 heads of 40, bf16"."""
        words = f"{self.batch} x {self.queries}x{self.keys} tokens"
        words += f", {self.heads} head{'s' * (self.heads > 1)} of {self.width}"
        words += f", {_short(self.dtype)}"
        return words + (", masked" if self.mask else "") + (", causal" if self.causal else "")

    @property
    def half(self) -> bool:
        """Whether it is in 16 bit."""
        return self.dtype.itemsize == 2

    @property
    def grouped(self) -> bool:
        """Whether several heads share a key and value."""
        return self.heads != self.key_heads

    @property
    def dense(self) -> bool:
        """Whether a head's numbers lie side by side, and value is as wide as key."""
        return self.width == self.value_width and all(each.endswith("d") for each in self.layout)

    @property
    def scores(self) -> int:
        """Bytes of all scores, in fp32."""
        return 4 * self.batch * self.heads * self.queries * self.keys


def _order(tensor: torch.Tensor) -> str:
    """The dimensions b, h, s, d from the largest stride to the smallest; sizes of 1 left out."""
    named = zip(tensor.stride(), "bhsd", tensor.shape, strict=True)
    return "".join(name for stride, name, size in sorted(named, reverse=True) if size > 1)


def _spread(mask: torch.Tensor) -> str:
    """The dimensions b, h, s, t along which a mask isn't one for all."""
    named = zip(reversed(mask.shape), "tshb", strict=False)
    return "".join(name for size, name in named if size > 1)[::-1]


def _on_grid(tokens: int) -> str:
    """Rounded up to four binary digits; "+" for what isn't in whole vectors of 8."""
    step = 1 << max(0, tokens.bit_length() - 4)
    return f"{-(-tokens // step) * step}" + "+" * bool(tokens % 8)


def _short(dtype: torch.dtype) -> str:
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return names.get(dtype, str(dtype).removeprefix("torch."))
