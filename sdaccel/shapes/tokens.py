"""Tokenizers whose vocabulary is generated: every word of the grammar is one token.

Any other text still tokenizes: for CLIP byte by byte (Radford et al. 2021, byte-level BPE), for T5
letter by letter (Raffel et al. 2020, unigram), where what is not printable ASCII is unknown.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sdaccel.shapes.grammar import COLOURS, RELATIONS, SHAPES, SIZES

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5Tokenizer

MAX_TOKENS = 24
START, END = "<|startoftext|>", "<|endoftext|>"
SPECIAL = ("<pad>", "</s>", "<unk>")


def words() -> tuple[str, ...]:
    """Every word a prompt of the grammar can contain, sorted."""
    relations = {word for relation in RELATIONS for word in relation.split()}
    return tuple(sorted({*COLOURS, *SHAPES, *SIZES, *relations, "a", "an", "on", "background"}))


def build_tokenizer() -> CLIPTokenizer:
    """The stock tokenizer class over the generated vocabulary; pads to MAX_TOKENS."""
    from transformers import CLIPTokenizer

    letters = _byte_letters()
    merges = _merges(words())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in merges] + [START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]
        model_max_length=MAX_TOKENS,
    )


def build_t5_tokenizer(
    vocabulary: Iterable[str] | None = None, max_tokens: int = MAX_TOKENS
) -> T5Tokenizer:
    """The stock T5 tokenizer class over a vocabulary, `words()` unless given, padding as told."""
    from transformers import T5Tokenizer

    whole = words() if vocabulary is None else vocabulary
    pieces = [*SPECIAL, *(f"▁{word}" for word in whole), "▁", *map(chr, range(33, 127))]
    # A word costs less than the letters it is made of, so that it is always taken whole.
    scores = [0.0 if len(piece) > 1 else -10.0 for piece in pieces]
    return T5Tokenizer(
        vocab=list(zip(pieces, scores, strict=True)), extra_ids=0, model_max_length=max_tokens
    )


def _byte_letters() -> list[str]:
    """The 256 printable stand-ins that byte-level BPE writes bytes with, in byte order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _merges(vocabulary: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first, until each word is a single token."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in vocabulary]
    merges: list[tuple[str, str]] = []
    while any(len(word) > 1 for word in spelled):
        pairs = [pair for word in spelled for pair in itertools.pairwise(word)]
        best = max(sorted(set(pairs)), key=pairs.count)
        merges.append(best)
        spelled = [_merge(word, best) for word in spelled]
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged
