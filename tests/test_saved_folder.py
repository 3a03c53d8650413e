"""A saved folder is whole or not there, and a damaged one is refused with a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sdaccel.errors import SavedError
from sdaccel.saved_folder import MANIFEST, read_folder, write_folder

FILES = {"a.bin": bytes(range(256)), "deep/b.json": b"{}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "saved"
    write_folder(found, {"about": 1}, FILES)
    return found


def names(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}


def test_what_is_written_is_read_back(folder: Path) -> None:
    assert read_folder(folder) == ({"about": 1}, FILES)
    assert [each.name for each in folder.parent.iterdir()] == ["saved"]


def test_a_folder_saved_before_is_replaced_as_a_whole(folder: Path) -> None:
    write_folder(folder, {}, {"c": b"new"})
    assert names(folder) == {MANIFEST, "c"}
    assert [each.name for each in folder.parent.iterdir()] == ["saved"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    write_folder(tmp_path, {}, FILES)
    assert read_folder(tmp_path) == ({}, FILES)


def test_a_user_s_folder_or_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SavedError, match="other files in it"):
        write_folder(tmp_path, {}, FILES)
    with pytest.raises(SavedError, match="no folder"):
        write_folder(tmp_path / "thesis.txt", {}, FILES)
    assert names(tmp_path) == {"thesis.txt"}


@pytest.mark.parametrize("written", [0, 1, 2])
def test_when_the_disk_is_full_nothing_new_is_left_and_the_old_stays(
    folder: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes
    left = [written]

    def full(path: Path, content: bytes) -> int:
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SavedError, match="No space left on device"):
        write_folder(folder, {}, {"new": b"new", "newer": b"newer"})
    with pytest.raises(SavedError, match="No space left on device"):
        write_folder(folder.parent / "other", {}, FILES)
    assert [each.name for each in folder.parent.iterdir()] == ["saved"]
    assert read_folder(folder) == ({"about": 1}, FILES)


def flip(folder: Path) -> None:
    content = bytearray(FILES["a.bin"])
    content[100] ^= 1
    (folder / "a.bin").write_bytes(content)


def cut(folder: Path) -> None:
    (folder / "a.bin").write_bytes(FILES["a.bin"][:-1])


def lose(folder: Path) -> None:
    (folder / "deep" / "b.json").unlink()


def cut_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes()[:-20])


def lose_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def change(folder: Path, key: str, value: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


def outside(folder: Path) -> None:
    change(folder, "files", {"../secret": {"bytes": 0, "sha256": ""}})


def anywhere(folder: Path) -> None:
    change(folder, "files", {"/etc/passwd": {"bytes": 0, "sha256": ""}})


def later_format(folder: Path) -> None:
    change(folder, "format", 2)


def no_mapping(folder: Path) -> None:
    change(folder, "files", [1])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip, "a.bin is damaged"),
        (cut, "a.bin is damaged"),
        (lose, "incomplete, without deep/b.json"),
        (cut_manifest, "sdaccel.json is damaged"),
        (lose_manifest, "There is nothing of"),
        (outside, "names a file outside of it"),
        (anywhere, "names a file outside of it"),
        (later_format, "another version of sdaccel"),
        (no_mapping, "sdaccel.json is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(
    folder: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(folder)
    with pytest.raises(SavedError, match=sentence):
        read_folder(folder)


def test_where_there_is_none_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SavedError, match="There is nothing of"):
        read_folder(tmp_path / "nowhere")
