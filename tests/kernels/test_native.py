"""Libraries built from C++: built once, kept on disk, and what happens where that fails."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdaccel.kernels import native
from sdaccel.kernels.native import BuildError, cache_folder, fingerprint, library


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a file of C++ that takes the place of the package's own."""
    file = tmp_path / "twice.cpp"
    file.write_text('extern "C" int twice(int x) { return 2 * x; }\n')
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    library.cache_clear()
    yield file
    library.cache_clear()


def test_it_is_built_once_and_loaded_from_disk_after(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert library("twice", ()).twice(21) == 42
    assert [each.suffix for each in cache_folder().iterdir()] == [".so"]
    monkeypatch.setattr(native, "_build", None)
    library.cache_clear()
    assert library("twice", ()).twice(4) == 8


def test_another_source_is_another_library(source: Path) -> None:
    library("twice", ())
    source.write_text('extern "C" int twice(int x) { return x + x + 1; }\n')
    library.cache_clear()
    assert library("twice", ()).twice(1) == 3


def test_another_header_is_another_library_too(source: Path) -> None:
    header = source.with_name("twice_by.h")
    header.write_text("constexpr int BY = 2;\n")
    source.write_text('#include "twice_by.h"\nextern "C" int twice(int x) { return BY * x; }\n')
    assert library("twice", ()).twice(21) == 42
    header.write_text("constexpr int BY = 3;\n")
    library.cache_clear()
    assert library("twice", ()).twice(21) == 63


def test_a_fingerprint_is_of_the_sources_of_that_name_alone(source: Path) -> None:
    before = fingerprint("twice")
    source.with_name("thrice.cpp").write_text("")
    source.with_name("twice.txt").write_text("")
    assert fingerprint("twice") == before
    source.with_name("twice.py").write_text("")
    assert fingerprint("twice") != before


def test_what_does_not_compile_says_why_and_leaves_nothing_behind(source: Path) -> None:
    source.write_text("no C++ at all\n")
    with pytest.raises(BuildError, match=r"failed: .*error"):
        library("twice", ())
    assert list(cache_folder().iterdir()) == []


def test_without_a_compiler_it_says_what_to_install(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="install no-such-compiler, or set CXX"):
        library("twice", ())


def test_a_compiler_that_hangs_is_given_up(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def hang(command: list[str], **options: Any) -> Any:
        if "-o" in command:
            raise subprocess.TimeoutExpired(command, 1)
        return run(command, **options)

    monkeypatch.setattr(native.subprocess, "run", hang)
    with pytest.raises(BuildError, match="took more than"):
        library("twice", ())


def test_a_cache_that_can_not_be_written_is_a_reason(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.with_name("file").write_text("")
    monkeypatch.setenv("SDACCEL_CACHE", str(source.with_name("file") / "cache"))
    with pytest.raises(BuildError, match="can't be kept"):
        library("twice", ())


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDACCEL_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("SDACCEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/sdaccel")
