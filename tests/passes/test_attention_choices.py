"""Verdicts on disk: kept, found again, shared, and started anew where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdaccel.passes.attention_choices import Choices, Verdict

MACHINE = {"device": "A GPU (80 GB)", "torch": "2.13"}
WON = Verdict("quick", 1.5, {"other": "error 1.0e+00"}, {"stock": 1e-3, "quick": 1e-3})


def opened(folder: Path, notes: list[str] | None = None, **machine: Any) -> Choices:
    return Choices(folder, {**MACHINE, **machine}, (notes if notes is not None else []).append)


def test_a_verdict_is_found_again(tmp_path: Path) -> None:
    opened(tmp_path).keep("a shape", WON)
    assert opened(tmp_path).get("a shape") == WON
    assert opened(tmp_path).get("another") is None


def test_it_holds_for_one_machine_and_its_versions(tmp_path: Path) -> None:
    opened(tmp_path).keep("a shape", WON)
    assert opened(tmp_path, torch="2.14").get("a shape") is None
    assert opened(tmp_path, device="B").get("a shape") is None
    assert opened(tmp_path).path.name.startswith("a-gpu-80-gb-")


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    first.keep("one", WON)
    second.keep("two", Verdict("stock"))
    third = opened(tmp_path)
    assert third.get("one") == WON
    assert third.get("two") == Verdict("stock")
    assert [each.name for each in tmp_path.iterdir()] == [third.path.name], "and no temporary file"


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "null", '{"identity": {}}', '{"identity": {}, "verdicts": {}}'],
)
def test_a_damaged_file_is_started_anew_with_a_note(tmp_path: Path, damage: str) -> None:
    path = opened(tmp_path).path
    path.write_text(damage)
    notes: list[str] = []
    choices = opened(tmp_path, notes)
    assert choices.get("a shape") is None
    assert "measured anew" in notes[0]
    choices.keep("a shape", WON)
    assert opened(tmp_path).get("a shape") == WON


@pytest.mark.parametrize("verdict", [{}, {"winner": 3}, {"winner": "a", "wings": 2}, "a", None])
def test_so_is_one_with_a_verdict_that_is_none(tmp_path: Path, verdict: Any) -> None:
    choices = opened(tmp_path)
    choices.keep("good", WON)
    content = json.loads(choices.path.read_text())
    content["verdicts"]["bad"] = verdict
    choices.path.write_text(json.dumps(content))
    notes: list[str] = []
    assert opened(tmp_path, notes).get("bad") is None
    assert "damaged" in notes[0]


def test_a_folder_that_can_t_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    notes: list[str] = []
    choices = opened(tmp_path / "file" / "below", notes)
    choices.keep("a shape", WON)
    assert choices.get("a shape") == WON
    assert any("can't be written" in note for note in notes)


def test_the_folder_is_the_one_of_all_that_this_package_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Choices(None, MACHINE, print).path.parent == tmp_path / "own" / "attention"
    monkeypatch.delenv("SDACCEL_CACHE")
    assert Choices(None, MACHINE, print).path.parent == tmp_path / "xdg" / "sdaccel" / "attention"
