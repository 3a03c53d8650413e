"""Storages in a file: the same bytes, out of memory when asked, gone when nobody holds them."""

from __future__ import annotations

import errno
import gc
import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from sdaccel import mapped_file
from sdaccel.mapped_file import NoDiskError, file_system, map_copies

linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def a_disk(monkeypatch: Any, tmp_path: Path) -> Path:
    """Temporary files go to a folder of the test's own, which passes for one on a disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(mapped_file, "file_system", lambda _: "ext4")
    return tmp_path


def tensors() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(3, 1000),
        torch.randn(7).to(torch.bfloat16),
        torch.randint(-9, 9, (MEGABYTE,), dtype=torch.int8),
    ]


def resident(folder: Path) -> int:
    """Bytes of this process's memory that are pages of files in `folder`."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first:
            inside = bool(rest[4:]) and rest[4].startswith(str(folder))
        elif inside and first == "Rss:":
            total += int(rest[0]) * 1024
    return total


def mapped(folder: Path) -> bool:
    return str(folder) in Path("/proc/self/maps").read_text()


@linux
def test_copies_have_the_bytes_and_the_sizes_of_the_originals() -> None:
    originals = [each.untyped_storage() for each in tensors()]
    copies = map_copies(originals).storages
    assert [each.nbytes() for each in copies] == [each.nbytes() for each in originals]
    assert [each.tolist() for each in copies[:2]] == [each.tolist() for each in originals[:2]]
    copies[0].fill_(0)
    assert any(originals[0].tolist())


@linux
def test_pages_leave_memory_and_come_back_with_what_was_written(a_disk: Path) -> None:
    original = torch.arange(MEGABYTE, dtype=torch.int32)
    mapping = map_copies([original.untyped_storage()])
    copy = torch.empty(0, dtype=torch.int32).set_(mapping.storages[0])
    assert torch.equal(copy, original)
    copy[7] = -1
    assert resident(a_disk) >= original.nbytes
    mapping.leave_memory()
    assert resident(a_disk) == 0
    assert copy[7] == -1
    assert torch.equal(copy[8:], original[8:])


@linux
def test_the_file_has_no_name_and_goes_with_its_last_holder(a_disk: Path) -> None:
    mapping = map_copies([torch.ones(5).untyped_storage()])
    copy = torch.empty(0).set_(mapping.storages[0])
    assert list(a_disk.iterdir()) == []
    del mapping
    gc.collect()
    assert mapped(a_disk)
    assert copy.tolist() == [1] * 5
    del copy
    gc.collect()
    assert not mapped(a_disk)


@linux
def test_memory_that_passes_for_a_disk_is_refused(monkeypatch: Any, a_disk: Path) -> None:
    monkeypatch.setattr(mapped_file, "file_system", lambda _: "tmpfs")
    with pytest.raises(NoDiskError, match=rf"{a_disk} is not on a disk \(tmpfs\); /var/tmp"):
        map_copies([torch.ones(5).untyped_storage()])


@linux
def test_a_folder_on_a_disk_is_taken_where_the_usual_one_is_none(monkeypatch: Any) -> None:
    kinds = {"/var/tmp": "xfs"}
    monkeypatch.setattr(mapped_file, "file_system", lambda folder: kinds.get(folder, "tmpfs"))
    reserved = []
    monkeypatch.setattr(mapped_file, "_reserved", lambda folder, _: reserved.append(folder))
    mapped_file._new_file(1)
    assert reserved == ["/var/tmp"]


@linux
def test_a_full_disk_is_refused(monkeypatch: Any) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(9e9, 8e9, 9000))
    map_copies([torch.ones(750).untyped_storage()])
    with pytest.raises(NoDiskError, match="GB free"):
        map_copies([torch.ones(2000).untyped_storage()])


@linux
def test_a_disk_that_fills_up_meanwhile_is_refused_before_anything_is_written(
    monkeypatch: Any, a_disk: Path
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(NoDiskError, match="No space left"):
        map_copies([torch.ones(5).untyped_storage()])
    assert not mapped(a_disk)


def test_elsewhere_than_on_linux_it_refuses(monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(NoDiskError, match="Linux alone"):
        map_copies([torch.ones(5).untyped_storage()])


@linux
def test_the_innermost_mount_tells_the_file_system(monkeypatch: Any) -> None:
    monkeypatch.undo()
    mounts = (
        "/dev/a / ext4 rw 0 0\nb /srv tmpfs rw 0 0\n/dev/c /srv/my\\040disk xfs rw 0 0\n"
        "d /srv/mine tmpfs rw 0 0\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda _: mounts)
    assert file_system("/home") == "ext4"
    assert file_system("/srv/other") == "tmpfs"
    assert file_system("/srv/my disk/folder") == "xfs"
