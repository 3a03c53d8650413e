"""Artefacts go through bytes: all saves of a process, and nothing that is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch.compiler._cache import CacheArtifact, CacheArtifactFactory, CacheArtifactManager

from sdaccel.compiled_artefacts import compiled_here, restore_compiled

_RESTORED: list[tuple[str, bytes]] = []


@pytest.fixture(autouse=True)
def own_artefacts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kind of artefact that only tells what is restored, and no other's."""

    class Told(CacheArtifact):
        @staticmethod
        def type() -> str:
            return "told"

        def populate_cache(self) -> None:
            _RESTORED.append((self.key, self.content))

    kinds: Any = {**CacheArtifactFactory._artifact_types, "told": Told}
    monkeypatch.setattr(CacheArtifactFactory, "_artifact_types", kinds)
    _RESTORED.clear()
    with CacheArtifactManager.with_fresh_cache():
        yield


def test_where_nothing_was_compiled_there_is_nothing() -> None:
    assert compiled_here() is None


def test_what_each_save_has_added_comes_back() -> None:
    saved = []
    for key in ("first", "second", "third"):
        CacheArtifactManager.record_artifact("told", key, key.encode())
        saved.append(compiled_here())
    assert saved[-1] is not None
    assert restore_compiled(saved[-1]) == 3
    assert [key for key, _ in _RESTORED] == ["first", "second", "third"]
    assert all(content == key.encode() for key, content in _RESTORED)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:-9] + b"x" + b[-8:], lambda _: b""]
)
def test_what_is_damaged_is_not_restored(damage: Any) -> None:
    CacheArtifactManager.record_artifact("told", "only", b"0123456789")
    content = compiled_here()
    assert content is not None
    assert restore_compiled(damage(content)) is None
    assert _RESTORED == []
