from __future__ import annotations

from pathlib import Path

import pytest

from sdaccel import shapes
from sdaccel.cli.prompts import choose, read
from sdaccel.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n  a dog, asleep \r\nein Bär\n", encoding="utf-8")
    return path


def test_a_file_holds_a_prompt_a_line_and_empty_lines_are_left_out(file: Path) -> None:
    assert read(file) == ["a cat", "a dog, asleep", "ein Bär"]
    assert choose("any/model", file, False, None) == read(file)
    assert choose("any/model", file, False, 2) == read(file)[:2]


def test_an_embedded_model_has_prompts_of_its_own_for_tuning_and_for_evaluation() -> None:
    assert choose("shapes-unet", None, False, None) == shapes.held_out_prompts(32)
    assert choose("shapes-unet", None, True, 5) == shapes.evaluation_prompts(5)


@pytest.mark.parametrize("count", [0, -3])
def test_a_count_below_1_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"at least 1, not {count}"):
        choose("shapes-unet", None, False, count)


def test_what_gives_no_prompts_is_refused_with_what_to_do(file: Path, tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary"
    empty.write_text("\n   \n")
    binary.write_bytes(b"\xff\xfe\x00\xd8")
    for path, count, says in (
        (tmp_path / "nowhere.txt", None, "nowhere.txt can't be read: No such file"),
        (tmp_path, None, "can't be read: Is a directory"),
        (empty, None, "has no prompt in it: write one a line"),
        (binary, None, "no text in UTF-8"),
        (file, 4, "has 3 prompts, fewer than 4"),
    ):
        with pytest.raises(InputError, match=says):
            choose("shapes-unet", path, False, count)
    with pytest.raises(InputError, match="leave it or --prompts out"):
        choose("shapes-unet", file, True, None)
    with pytest.raises(InputError, match="any/model has no prompts of its own: give --prompts"):
        choose("any/model", None, False, None)
