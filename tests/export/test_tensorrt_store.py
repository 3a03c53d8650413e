"""Engines on disk: found by their keys, checked, and few enough."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from fake_tensorrt import names_of

from sdaccel.errors import ExportError
from sdaccel.export.tensorrt_keys import EngineKey
from sdaccel.export.tensorrt_store import ABOUT, PLAN, DamagedEngineError, EngineStore, write_whole

Usage = namedtuple("Usage", "total used free")


def key(weights: str, structure: str = "s") -> EngineKey:
    return EngineKey(structure, weights)


def keep(store: EngineStore, weights: str, used: int, size: int = 1000) -> None:
    """Keep an engine that was used last at a time."""
    kept = store.keep(key(weights), bytes(size), {"component": weights})
    os.utime(kept.folder / ABOUT, (used, used))


def test_an_engine_comes_back_by_its_key_alone(tmp_path: Path) -> None:
    store = EngineStore(tmp_path / "engines")
    store.keep(key("a"), b"plan", {"gpu": "One"})
    found = store.find(key("a"))
    assert found is not None
    assert (found.read(), found.about["gpu"]) == (b"plan", "One")
    assert store.find(key("b")) is None
    assert store.find(key("a", "t")) is None
    store.keep(key("a"), b"another", {})
    again = store.find(key("a"))
    assert again is not None
    assert again.read() == b"another"


@pytest.mark.parametrize("damage", [b"", b"pla", b"plan2", b"nalp"])
def test_a_plan_that_was_changed_is_never_handed_out(tmp_path: Path, damage: bytes) -> None:
    store = EngineStore(tmp_path)
    kept = store.keep(key("a"), b"plan", {})
    (kept.folder / PLAN).write_bytes(damage)
    found = store.find(key("a"))
    assert found is not None
    with pytest.raises(DamagedEngineError, match="truncated or was changed"):
        found.read()


def test_an_engine_without_its_plan_or_its_description_is_damaged_or_none(tmp_path: Path) -> None:
    store = EngineStore(tmp_path)
    kept = store.keep(key("a"), b"plan", {})
    (kept.folder / PLAN).unlink()
    with pytest.raises(DamagedEngineError, match="can't be read"):
        kept.read()
    for content in ("{", "[]"):
        (kept.folder / ABOUT).write_text(content)
        assert store.find(key("a")) is None
    (kept.folder / ABOUT).unlink()
    assert store.all() == []


def test_alike_are_those_of_the_structure_and_the_last_used_is_first(tmp_path: Path) -> None:
    store = EngineStore(tmp_path)
    for weights, used in (("a", 20), ("b", 30), ("c", 10)):
        keep(store, weights, used)
    store.keep(key("d", "other"), b"plan", {})
    assert [each.about["component"] for each in store.alike(key("x"))] == ["b", "a", "c"]


def test_the_least_recently_used_goes_where_the_limit_is_passed(tmp_path: Path) -> None:
    store = EngineStore(tmp_path, limit=3500)
    for weights, used in (("a", 10), ("b", 20), ("c", 30)):
        keep(store, weights, used)
    assert names_of(tmp_path) == ["s-a", "s-b", "s-c"]
    found = store.find(key("a"))
    assert found is not None
    found.read()
    keep(store, "d", 40)
    assert names_of(tmp_path) == ["s-a", "s-c", "s-d"], "b was used before a was read"


def test_what_is_larger_than_the_limit_is_kept_alone(tmp_path: Path) -> None:
    store = EngineStore(tmp_path, limit=1500)
    keep(store, "a", 10)
    keep(store, "b", 20, size=5000)
    assert names_of(tmp_path) == ["s-b"]
    unlimited = EngineStore(tmp_path)
    keep(unlimited, "c", 30, size=5000)
    assert names_of(tmp_path) == ["s-b", "s-c"]


def test_only_a_store_s_own_engines_are_dropped(tmp_path: Path) -> None:
    mine, theirs = EngineStore(tmp_path / "mine"), EngineStore(tmp_path / "theirs")
    kept = theirs.keep(key("a"), b"plan", {})
    mine.drop(kept)
    assert theirs.find(key("a")) is not None
    theirs.drop(kept)
    assert theirs.find(key("a")) is None


def test_a_disk_without_room_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EngineStore(tmp_path / "not" / "yet", limit=2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 500))
    store.check_room(400)
    with pytest.raises(ExportError, match=r"takes about 0.0 GB, and '.*yet' has room for 0.0 GB"):
        store.check_room(600)
    monkeypatch.undo()
    keep(store, "a", 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 500))
    store.check_room(1400)  # a goes for it
    with pytest.raises(ExportError, match="SDACCEL_CACHE"):
        store.check_room(3000)
    assert names_of(store.folder) == ["s-a"], "looking takes nothing away"


def test_nothing_is_left_of_an_engine_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    store = EngineStore(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ExportError, match="No space left on device"):
        store.keep(key("a"), b"plan", {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "timings"
    for content in (b"one", b"two"):
        write_whole(path, content)
        assert [each.name for each in path.parent.iterdir()] == ["timings"]
        assert path.read_bytes() == content
