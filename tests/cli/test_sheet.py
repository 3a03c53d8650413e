"""Words on a sheet: nothing is cut off."""

from __future__ import annotations

import pytest
from PIL import ImageFont

from sdaccel.cli.sheet import _wrapped, text_block

FONT = ImageFont.load_default(size=16)
PLAN = "eager+fuse+hoist+schedulers+precision+step_cache"


def right_edge(text: str, width: int) -> int:
    """How many pixels of the block are left free at its right side."""
    block = text_block(text, width, 16).convert("L")
    ink = block.point(lambda level: 255 - level).getbbox()
    assert ink is not None
    return width - ink[2]


@pytest.mark.parametrize("width", [320, 120, 60])
def test_a_long_plan_is_wrapped_before_its_signs_and_not_cut_off(width: int) -> None:
    lines = _wrapped(f"plan {PLAN}", width, FONT)
    assert "".join(lines).removeprefix("plan").strip() == PLAN, "every letter is there"
    assert len(lines) > 1
    assert all(FONT.getlength(line) <= width for line in lines)
    assert right_edge(f"plan {PLAN}", width) >= 0
    if width >= 120:
        assert all(line[0] in "+-" for line in lines[1:] if not line.startswith("eager"))


def test_a_word_without_signs_that_is_too_long_is_broken_anywhere() -> None:
    lines = _wrapped("a" * 100, 60, FONT)
    assert "".join(lines) == "a" * 100
    assert all(FONT.getlength(line) <= 60 for line in lines)


def test_words_that_fit_stay_on_their_line() -> None:
    assert _wrapped("two cats and a dog", 320, FONT) == ["two cats and a dog"]
    assert _wrapped("", 320, FONT) == [""]
