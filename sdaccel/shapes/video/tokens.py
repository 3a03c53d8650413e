"""The T5 tokenizer of the video model: every word of the grammar of clips is one token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdaccel.shapes.grammar import COLOURS, RELATIONS, SHAPES, SIZES
from sdaccel.shapes.tokens import build_t5_tokenizer
from sdaccel.shapes.video.grammar import DIRECTIONS, STILL, TURNS

if TYPE_CHECKING:
    from transformers import T5Tokenizer

MAX_TOKENS = 32


def words() -> tuple[str, ...]:
    """Every word a prompt of the grammar can contain, sorted."""
    relations = {word for relation in RELATIONS for word in relation.split()}
    fixed = {"a", "an", "on", "background", "moves", STILL, TURNS}
    return tuple(sorted({*COLOURS, *SHAPES, *SIZES, *DIRECTIONS, *relations, *fixed}))


def build_tokenizer() -> T5Tokenizer:
    """The stock tokenizer class over the generated vocabulary; pads to MAX_TOKENS."""
    return build_t5_tokenizer(words(), MAX_TOKENS)
